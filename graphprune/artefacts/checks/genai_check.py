"""The parity check of ONNX folders in onnxruntime-genai, where that is installed.

What of it needs torch is imported in the check alone: `bench` measures in a process that has none.
"""

import importlib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from graphprune.errors import ParityError, first_line
from graphprune.json_data import Json

if TYPE_CHECKING:
    from torch import Tensor

    from graphprune.running.comparison import Check

Known = Mapping[str, "type[int] | type[str] | type[list[int]] | Known"]
NAME = "greedy tokens in genai"
# All that the onnx backend writes into genai_config.json: a number, a text, numbers (`int`, `str`, `list`), or more of
# the same. Anything else may name libraries, which onnxruntime would load.
_TOKENS: Known = {"bos_token_id": list, "eos_token_id": list, "pad_token_id": list}
_SIZES = ("head_size", "hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers")
_INPUTS = ("input_ids", "attention_mask", "position_ids", "past_key_names", "past_value_names")
_OUTPUTS = ("logits", "present_key_names", "present_value_names")
KNOWN: Known = {
    "model": {
        "type": str,
        **_TOKENS,
        "context_length": int,
        "vocab_size": int,
        "decoder": {
            "session_options": {"log_id": str, "provider_options": list},
            "filename": str,
            **dict.fromkeys(_SIZES, int),
            "inputs": dict.fromkeys(_INPUTS, str),
            "outputs": dict.fromkeys(_OUTPUTS, str),
        },
    },
    "search": {"max_length": int, "do_sample": int, "num_beams": int, "past_present_share_buffer": int},
}


def can_check(folder: Path) -> bool:
    installed = importlib.util.find_spec("onnxruntime_genai") is not None
    return installed and (folder / "genai_config.json").is_file()


def check_genai(folder: Path, expected: "Mapping[str, Tensor]", own: Sequence[int], full: bool) -> "Iterator[Check]":
    """Tokens made with nothing but the folder: those of the graph in full precision, else those of our runner.

    `own` are our runner's. In fewer bits other tokens are stated and refuse nothing, as the two best may lie close.
    genai ends at the model's end token, and so does the comparison.
    """
    from graphprune.running.comparison import OTHER_TEXTS, compare_tokens

    found = generate(folder, expected["input.prompt"][0].tolist(), len(own))
    wanted = expected if full else {**expected, "greedy.tokens": expected["greedy.tokens"].new_tensor(own)}
    wanted = {**wanted, **{name: wanted[name][: len(found)] for name in ("greedy.tokens", "greedy.margins")}}
    check = replace(compare_tokens(folder.name, wanted, found), name=NAME)
    yield check if full or check.passed else replace(check, passed=True, advice=OTHER_TEXTS)


def require_known(folder: Path) -> None:
    """Raise ParityError where genai_config.json says anything that the onnx backend does not write.

    onnxruntime loads the libraries that a configuration names, and the files.
    """
    path = folder / "genai_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=each_once)
    except (OSError, ValueError, RecursionError) as error:
        raise ParityError(f"{path} cannot be read: {first_line(error)}; export it again") from error
    odd = next(unknown_parts(config, KNOWN, ""), None)
    if odd is None and config.get("model", {}).get("decoder", {}).get("filename") != "model.onnx":
        odd = "model.decoder.filename"
    if odd is not None:
        raise ParityError(
            f"{path} has {odd[:80]!r} otherwise than graphprune writes it; it is not used; export it again"
        )


def each_once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    """An object. Raises ValueError where it has a name twice, of which readers take one or the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def unknown_parts(found: Json, known: "Known | type", place: str) -> Iterator[str]:
    """The places of what is not known, or of another type; lists hold nothing but numbers."""
    if isinstance(known, Mapping):
        if not isinstance(found, dict):
            yield place
            return
        for name, value in found.items():
            where = f"{place}.{name}".removeprefix(".")
            if name in known:
                yield from unknown_parts(value, known[name], where)
            else:
                yield where
    elif known is list:
        if not all(isinstance(item, int) for item in (found if isinstance(found, list) else [found])):
            yield place
    elif not isinstance(found, known):
        yield place


def generate(folder: Path, prompt: list[int], count: int) -> list[int]:
    """Up to `count` greedy tokens after the prompt; fewer where the model ends its text."""
    require_known(folder)
    genai: Any = importlib.import_module("onnxruntime_genai")
    model = genai.Model(str(folder))
    options = genai.GeneratorParams(model)
    options.set_search_options(max_length=min(len(prompt) + count, longest(folder)), do_sample=False)
    generator = genai.Generator(model, options)
    generator.append_tokens(numpy.array([prompt], numpy.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)][len(prompt) :]


def longest(folder: Path) -> int:
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    return int(config["model"]["context_length"])
