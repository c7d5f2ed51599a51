"""The parity check of ONNX folders in onnxruntime-genai, where that is installed."""

import importlib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
from torch import Tensor

from graphprune.running.comparison import Check, compare_tokens

NAME = "greedy tokens in genai"


def can_check(folder: Path) -> bool:
    installed = importlib.util.find_spec("onnxruntime_genai") is not None
    return installed and (folder / "genai_config.json").is_file()


def check_genai(folder: Path, expected: Mapping[str, Tensor], own: Sequence[int], full: bool) -> Iterator[Check]:
    """Tokens made with nothing but the folder: those of the graph in full precision, else those of our runner.

    `own` are our runner's. In fewer bits other tokens are stated and refuse nothing, as the two best may lie close.
    genai ends at the model's end token, and so does the comparison.
    """
    found = generate(folder, expected["input.prompt"][0].tolist(), len(own))
    wanted = expected if full else {**expected, "greedy.tokens": expected["greedy.tokens"].new_tensor(own)}
    wanted = {**wanted, **{name: wanted[name][: len(found)] for name in ("greedy.tokens", "greedy.margins")}}
    check = replace(compare_tokens(folder.name, wanted, found), name=NAME)
    yield check if full else replace(check, passed=True)


def generate(folder: Path, prompt: list[int], count: int) -> list[int]:
    """Up to `count` greedy tokens after the prompt; fewer where the model ends its text."""
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
