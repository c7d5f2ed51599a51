"""Parity: every artefact is loaded in a fresh process and compared with what the graph computed."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphprune.errors import ParityError
from graphprune.ir.contract import DERIVED, rows_of_ids
from graphprune.ir.graph import Graph
from graphprune.ir.sizes import concrete
from graphprune.ir.types import TensorType
from graphprune.models.decoder import same_tensors
from graphprune.runners import Runner, graph_runner, model_runner, whole_runner

REFERENCE = Path("graphprune") / "reference.safetensors"

PROMPT, STEPS, NEW_TOKENS = 12, 4, 64
TOLERANCES = {"float64": 1e-6, "float32": 1e-4, "bfloat16": 3e-2, "float16": 5e-3}
Observations = dict[str, Tensor]


@dataclass(frozen=True)
class Check:
    """One comparison: the largest difference as a share of `scale` (the largest logit, at least 1), and its limit."""

    artefact: str
    name: str
    difference: float
    tolerance: float
    scale: float
    passed: bool
    detail: str = ""


def reference(graph: Graph, seed: int = 0) -> Observations:
    """What the graph computes on seeded random inputs; everything that a comparison needs, and small.

    Decoders: logits of a prefill, of cached single-token steps, of a left-padded batch with one cached step after it,
    and greedy tokens with the margin between the best and the second logit. Encoders: inputs and outputs by name.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        if graph.source.kind != "decoder":
            return encoder_reference(graph, generator)
        inputs = decoder_inputs(graph, generator)
        runner = graph_runner(graph)
        tokens, margins = greedy(runner, inputs["input.prompt"], new_tokens(graph))
        return {**inputs, **observe(runner, inputs), "greedy.tokens": tokens, "greedy.margins": margins}


def decoder_inputs(graph: Graph, generator: torch.Generator) -> Observations:
    """A prompt, tokens to feed one at a time, and two prompts of different lengths padded on the left."""
    vocabulary = int(graph.results["logits"].meta["value"].shape[-1])
    length = max(2, min(PROMPT, context(graph) // 2))
    steps = max(1, min(STEPS, context(graph) - length))
    rows = rows_of_ids(graph)
    ids = torch.randint(vocabulary, (2 * rows, length), generator=generator)
    mask = torch.ones(2, length, dtype=torch.long)
    mask[0, : length // 2] = 0
    following = torch.randint(vocabulary, (2 * rows, steps), generator=generator)
    return {
        "input.prompt": torch.randint(vocabulary, (rows, length), generator=generator),
        "input.steps": following[:rows],
        "input.padded": ids * mask.repeat_interleave(rows, 0),
        "input.mask": mask,
        "input.padded_step": following[:, :1].clone(),
    }


def context(graph: Graph) -> int:
    """The number of positions that the source model knows; 2048 where it does not say."""
    config = graph.source.config
    text = config.get_text_config() if config is not None else None
    found = getattr(text, "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else 2048


def new_tokens(graph: Graph) -> int:
    return max(1, min(NEW_TOKENS, context(graph) - max(2, min(PROMPT, context(graph) // 2))))


def observe(runner: Runner, inputs: Mapping[str, Tensor]) -> Observations:
    """Logits of a prefill, of cached steps, of a left-padded batch and of a cached step after that."""
    prompt, steps = inputs["input.prompt"], inputs["input.steps"]
    logits, past = runner(prompt, torch.ones_like(prompt[:1]), arange(prompt[:1]), None)
    # A few positions are enough where the vocabulary is large.
    kept = max(1, 1_000_000 // logits.shape[-1])
    found = {"prefill": logits[:, -kept:]}
    stepped = []
    for index in range(steps.shape[1]):
        length = prompt.shape[1] + index
        mask, position = torch.ones(1, length + 1, dtype=torch.long), torch.tensor([[length]])
        logits, past = runner(steps[:, index : index + 1], mask, position, past)
        stepped.append(logits[:, -1])
    found["cached steps"] = torch.stack(stepped, 1)
    ids, mask, token = inputs["input.padded"], inputs["input.mask"], inputs["input.padded_step"]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits, past = runner(ids, mask, positions, None)
    found["left-padded batch"] = logits[:, -1]
    mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    found["left-padded cached step"] = runner(token, mask, positions[:, -1:] + 1, past)[0][:, -1]
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


def arange(ids: Tensor) -> Tensor:
    return torch.arange(ids.shape[1]).expand(ids.shape).contiguous()


def greedy(runner: Runner, prompt: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`count` greedy tokens of each row of one prompt with the cache, and how far each was ahead of the second best."""
    ids, past, length = prompt, None, 0
    tokens: list[int] = []
    margins: list[float] = []
    for _ in range(count):
        positions = arange(ids[:1]) + length
        length += ids.shape[1]
        logits, past = runner(ids, torch.ones(1, length, dtype=torch.long), positions, past)
        best = logits[:, -1].detach().float().topk(2).values
        ids = logits[:, -1].argmax(-1, keepdim=True).cpu()
        tokens += ids[:, 0].tolist()
        margins += (best[:, 0] - best[:, 1]).tolist()
    return torch.tensor(tokens), torch.tensor(margins)


def encoder_reference(graph: Graph, generator: torch.Generator) -> Observations:
    inputs = {n: encoder_input(n, node.meta["value"], graph, generator) for n, node in graph.placeholders.items()}
    device = next(iter(graph.tensors().values())).device
    outputs = graph(*(tensor.to(device) for tensor in inputs.values()))
    found = {name: tensor.cpu().contiguous() for name, tensor in zip(graph.outputs, outputs, strict=True)}
    return {**{f"input.{n}": t for n, t in inputs.items()}, **found}


def encoder_input(name: str, type_: TensorType, graph: Graph, generator: torch.Generator) -> Tensor:
    """Random values for floats, valid ids for tokens, ones for masks, zeros for other integers."""
    sizes = {"batch": 2, "images": 2, "target": 5}
    symbols = {str(s) for size in type_.shape if not isinstance(size, int) for s in size.free_symbols}
    shape = concrete(type_.shape, {**dict.fromkeys(symbols, 7), **sizes})
    if type_.dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(type_.dtype)
    if "mask" in name:
        return torch.ones(shape, dtype=type_.dtype)
    config = graph.source.config
    ids = config is not None and name.endswith("input_ids")
    vocabulary = getattr(config.get_text_config(), "vocab_size", 2) if ids else 1
    return torch.randint(vocabulary, shape, generator=generator).to(type_.dtype)


def agree(model: Any, graph: Graph) -> bool:
    """Say whether a transformers model computes what the graph computes, in this process: the quick form of `check`."""
    return all(entry.passed for entry in compare_models(model, graph))


def compare_models(model: Any, graph: Graph) -> list[Check]:
    """A transformers model against a graph, in this process; a copy runs, since some models keep things of a run."""
    model = (copy.deepcopy(model) if graph.memo.get("changed") else same_tensors(model)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        if graph.source.kind == "decoder":
            inputs = decoder_inputs(graph, generator)
            runner = whole_runner(model) if graph.memo.get(DERIVED) else model_runner(model)
            wanted, found = observe(graph_runner(graph), inputs), observe(runner, inputs)
        else:
            wanted = encoder_reference(graph, generator)
            found = observe_encoder(model, wanted)
    return [compare(type(model).__name__, name, wanted[name], tensor) for name, tensor in found.items()]


def observe_encoder(model: Any, expected: Mapping[str, Tensor]) -> Observations:
    """The outputs of a transformers encoder on the inputs of a reference."""
    device = next(model.parameters()).device
    inputs = {n.removeprefix("input."): t.to(device) for n, t in expected.items() if n.startswith("input.")}
    output = model(**inputs)
    return {name: output[name].detach().cpu() for name in expected if not name.startswith("input.")}


def compare(artefact: str, name: str, expected: Tensor, found: Tensor) -> Check:
    tolerance = TOLERANCES[str(expected.dtype).removeprefix("torch.")]
    if expected.shape != found.shape:
        detail = f"shape {tuple(found.shape)} where the graph gives {tuple(expected.shape)}"
        return Check(artefact, name, float("inf"), tolerance, 1.0, False, detail)
    wanted, got = expected.double().cpu(), found.double().cpu()
    scale = max(1.0, float(wanted.abs().max()))
    difference = float((wanted - got).abs().max()) / scale
    return Check(artefact, name, difference, tolerance, scale, difference <= tolerance)


def compare_tokens(artefact: str, expected: Mapping[str, Tensor], found: Sequence[int]) -> Check:
    """Greedy tokens must be the same; where the two best logits tie within the tolerance, comparing ends there."""
    wanted, margins = expected["greedy.tokens"].tolist(), expected["greedy.margins"].tolist()
    tolerance = TOLERANCES[str(expected["prefill"].dtype).removeprefix("torch.")]
    scale = max(1.0, float(expected["prefill"].abs().max()))
    count = next((i for i, pair in enumerate(zip(wanted, found, strict=False)) if pair[0] != pair[1]), len(found))
    tie = count < len(wanted) and count < len(found) and margins[count] <= 2 * tolerance * scale
    detail = f"{count} of {len(wanted)} tokens equal" + (", then a tie within the tolerance" if tie else "")
    return Check(artefact, "greedy tokens", float(len(wanted) - count), 0.0, scale, count == len(wanted) or tie, detail)


def reference_kind(graph: Graph) -> str:
    """The kind that a reference states: `derived` for decoders whose transformers class runs without a cache."""
    return DERIVED if graph.memo.get(DERIVED) else graph.source.kind


def save_reference(graph: Graph, out: Path, seed: int = 0) -> Path:
    """Write `out/graphprune/reference.safetensors`, which `check` compares every artefact with."""
    from safetensors.torch import save_file

    path = out / REFERENCE
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {
        name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in reference(graph, seed).items()
    }
    save_file(found, path, metadata={"kind": reference_kind(graph), "seed": str(seed)})
    return path


def check(out: Path) -> list[Check]:
    """Load every artefact in `out` in a fresh process and compare it with the saved reference.

    Raises ParityError where the process fails; a comparison that fails is in the result, see `require`.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-W", "ignore", "-m", "graphprune.parity", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ParityError(f"the check of {out} did not finish: {last[:300]}") from error
    if "error" in answer:
        raise ParityError(answer["error"])
    return [Check(**entry) for entry in answer["checks"]]


def require(checks: Sequence[Check]) -> None:
    """Raise ParityError naming the worst comparison that failed."""
    failed = [entry for entry in checks if not entry.passed]
    if failed:
        worst = max(failed, key=lambda entry: entry.difference)
        said = worst.detail or f"differs by {worst.difference:.2e} of {worst.scale:.3g}, allowed {worst.tolerance:.0e}"
        raise ParityError(f"{worst.artefact}: {worst.name}: {said}")
    if not checks:
        raise ParityError("no artefact was compared; the folder holds neither a checkpoint nor an ONNX model")


if __name__ == "__main__":
    from graphprune.artefacts import main

    sys.exit(main(sys.argv[1:]))
