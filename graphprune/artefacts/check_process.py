"""The process of a parity check: loads each artefact of a folder and compares it with the saved reference."""

import argparse
import json
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from graphprune.artefacts.checks import genai_check, gguf_check, mlx_check
from graphprune.artefacts.checks.call_check import check_calls
from graphprune.artefacts.checks.tokenizer_check import check_tokenizers
from graphprune.artefacts.loading import DECODERS, is_generic_form, load_checkpoint, onnx_runner, require_own_code
from graphprune.artefacts.parity import ENCODINGS, REFERENCE
from graphprune.artefacts.source_tokens import check_tokenizer
from graphprune.budget.installed import open_model, opener_of
from graphprune.errors import GraphpruneError, ParityError, first_line
from graphprune.frontend.room import is_checked_in_file
from graphprune.garbage import let_go
from graphprune.ir.contract import DERIVED
from graphprune.running.comparison import Check, Coarseness, compare, compare_tokens, in_fewer_bits
from graphprune.running.observations import Observations, greedy, observe, observe_encoder
from graphprune.running.runners import model_runner, whole_runner

REDUCED = {"fp16": Coarseness(1e-2, 1e-2), "int8": Coarseness(0.1, 0.5), "int4": Coarseness(0.1, 1.0)}


def main_of_spare(arguments: Sequence[str]) -> int:
    """`main` in a process that had imported everything before it was told its environment."""
    from huggingface_hub import constants

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    constants.HF_HUB_OFFLINE = True
    return main(arguments)


def main(arguments: Sequence[str]) -> int:
    """Print the checks of a folder as one line of JSON, and before that a line after each.

    With it stand, where they are asked for, the tokens that what runs in the folder makes of a prompt. Returns 0 if all
    passed.
    """
    import transformers

    transformers.logging.disable_progress_bar()
    asked = read_arguments(arguments)
    try:
        checks = []
        for found in check_all(asked.out, asked.memory):
            checks.append(found)
            print(json.dumps({"compared": f"{found.artefact} {found.name}"}), flush=True)
        made = go_on(asked.out, **json.loads(asked.go_on)) if asked.go_on else []
    except GraphpruneError as error:
        print(json.dumps({"error": str(error)}))
        return 1
    except Exception as error:  # whatever a damaged artefact makes its loader raise becomes one line
        traceback.print_exc()
        print(json.dumps({"error": f"an artefact in {asked.out} cannot be loaded or run: {describe(error)}"}))
        return 1
    print(json.dumps({"checks": [asdict(entry) for entry in checks], "made": made}))
    return 0 if checks and all(entry.passed for entry in checks) else 1


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--memory")
    parser.add_argument("--go-on")
    return parser.parse_args(arguments)


def go_on(out: Path, prompt: list[int], count: int) -> list[int]:
    """The likeliest tokens after a prompt, by the model that runs in a folder."""
    return open_model(out, "cpu").generate([prompt], max_new_tokens=count)[0]


def describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)[:300] if str(error).strip() else ''}"


def check_all(out: Path, memory: str | None = None) -> Iterator[Check]:
    expected, kind = read_reference(out)
    with torch.no_grad():
        if (out / "config.json").is_file():
            yield from check_checkpoint(out, expected, kind, memory)
            let_go()  # of the model, before another is read
            yield from check_tokens(out)
            yield from check_calls(out, expected, kind)
            let_go()
        for folder in sorted(path for path in out.iterdir() if path.is_dir()):
            if opener_of(folder) is not None:
                yield from check_runnable(folder, expected, kind)
                yield from check_tokenizers(out, folder)
                let_go()
        for path in sorted(out.glob("*/onnx/model_*.onnx")):
            yield from check_runnable(path, expected, kind)
            let_go()
        for path in sorted(out.glob("*/*.gguf")) if gguf_check.can_check() else ():
            yield from gguf_check.check_gguf(path, expected)
        for folder in sorted(path.parent for path in out.glob("*/config.json") if mlx_check.can_check(path.parent)):
            yield from mlx_check.check_mlx(folder, expected)


def read_reference(out: Path) -> tuple[Observations, str]:
    from safetensors import SafetensorError, safe_open

    path = out / REFERENCE
    if not path.is_file():
        raise ParityError(f"{path} is missing: the folder was not written by graphprune compile")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()["kind"]  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError) as error:
        raise ParityError(f"{path} is damaged: {error}; compile again") from error


def check_tokens(out: Path) -> Iterator[Check]:
    """Compare the tokenizer with the source's, where the source had one."""
    from safetensors import safe_open

    with safe_open(out / REFERENCE, "pt") as file:
        told = file.metadata().get(ENCODINGS)
    if told is not None:
        yield check_tokenizer(out, json.loads(told))


def compare_all(
    artefact: str, expected: Mapping[str, Tensor], found: Observations, tokens: Sequence[int] | None
) -> Iterator[Check]:
    for name, tensor in found.items():
        yield compare(artefact, name, expected[name], tensor)
    if tokens is not None:
        yield compare_tokens(artefact, expected, tokens)


def check_checkpoint(out: Path, expected: Observations, kind: str, memory: str | None = None) -> Iterator[Check]:
    """Compare the checkpoint as a user would load it."""
    generic = is_generic_form(out)
    if generic:
        require_own_code(out)
    model = load_checkpoint(out, kind, reference_dtype(expected), is_checked_in_file(out, memory))
    if kind == DERIVED:
        runner = model_runner(model) if generic else whole_runner(model)
        prompt = expected["input.prompt"]
        made, _ = greedy(runner, prompt, len(expected["greedy.tokens"]) // len(prompt))
        yield from compare_all("huggingface", expected, observe(runner, expected), made.tolist())
        return
    if kind not in DECODERS:
        yield from compare_all("huggingface", expected, observe_encoder(model, expected), None)
        return
    found = observe(model_runner(model), expected)
    prompt, count = expected["input.prompt"].to(model.device), len(expected["greedy.tokens"])
    plain = {"do_sample": False, "max_new_tokens": count, "eos_token_id": None, "pad_token_id": 0}
    model.generation_config = type(model.generation_config)(**plain)
    tokens = model.generate(prompt, attention_mask=torch.ones_like(prompt))[0, prompt.shape[1] :]
    yield from compare_all("huggingface", expected, found, tokens.tolist())


def reference_dtype(expected: Observations) -> torch.dtype:
    """The type that the graph computed in; weights stored in a narrower one are exact in it."""
    return next(t.dtype for name, t in expected.items() if t.is_floating_point() and not name.startswith("greedy."))


def check_runnable(folder: Path, expected: Observations, kind: str) -> Iterator[Check]:
    """Compare what is in a folder, open in its runtime."""
    model = open_model(folder, "cpu")
    if kind not in DECODERS:
        names = {n: f"input.{n}" for n in model.inputs}
        outputs = model.infer({n: expected[key].numpy() for n, key in names.items()})
        yield from compare_all(folder.name, expected, {n: torch.from_numpy(a) for n, a in outputs.items()}, None)
        return
    found = observe(onnx_runner(model), expected)
    prompt, precision = expected["input.prompt"], model.precision
    count = len(expected["greedy.tokens"]) // len(prompt)
    if len(prompt) == 1:
        tokens = model.generate(prompt.tolist(), max_new_tokens=count)[0]
    else:
        tokens = greedy(onnx_runner(model), prompt, count)[0].tolist()
    del model  # before another runtime reads the same weights
    checks = compare_all(folder.name, expected, found, tokens)
    yield from (checks if precision == "fp32" else (in_fewer_bits(check, REDUCED[precision]) for check in checks))
    if genai_check.can_check(folder):
        yield from genai_check.check_genai(folder, expected, tokens, precision == "fp32")
