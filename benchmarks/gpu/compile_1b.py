"""Part `compile-1b`: a Llama of 3B with random weights in bf16 through `compile` to 1B; seconds and memory by phase."""

import argparse
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from part import Part, peak_gib, release, reset_peak, run_part, watch_host
from shapes import TINY, WHOLE, make_model

from graphprune.compiler.compile import compile_model
from graphprune.demo import DEMO_FOLDER
from graphprune.pipeline.options import CompileOptions

# The method that needs least comes first; ONNX is written and checked once.
METHODS = {"taylor": ("huggingface", "onnx"), "adapt-pruner-ls": ("huggingface",)}
DEMO_TOKENS = 2048  # any tokenizer will do whose tokens the model has: the text only has to be text


@dataclass
class Phases:
    """Hears the progress of a compilation, and tells of each stage what it took once the next begins."""

    tell: Callable[..., None]
    host: Callable[[], float]
    name: str = "reading options"
    began: float = field(default_factory=time.monotonic)

    def __call__(
        self, stage: str, done: int = 0, total: int = 0, detail: str = "", part: tuple[int, int] = (1, 1)
    ) -> None:
        if stage != self.name:
            self.end(stage)

    def end(self, following: str = "") -> None:
        """The stage is over; the clock is read once the card has done what it was given in it."""
        peak, moment = peak_gib(), time.monotonic()
        self.tell(phase=self.name, seconds=round(moment - self.began, 2), host_gib=self.host(), gpu_gib=peak)
        reset_peak()
        self.name, self.began = following, moment


def write_source(part: Part) -> Path:
    """The checkpoint, written once and found again while the machine keeps its files."""
    shape = replace(TINY, vocabulary=DEMO_TOKENS) if part.tiny else WHOLE
    folder = part.work / f"llama-{shape.name}"
    if (folder / "config.json").is_file():
        return folder
    made = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(made, ignore_errors=True)
    make_model(shape, part.device, torch.bfloat16).save_pretrained(made)
    for path in DEMO_FOLDER.glob("tokenizer*"):
        shutil.copyfile(path, made / path.name)
    made.rename(folder)
    return folder


def write_text(part: Part) -> str:
    """A short text: of the standard one there is more than a size of seconds allows."""
    path = part.work / "text.txt"
    path.write_text(Path(argparse.__file__).read_text(encoding="utf-8")[:20_000], encoding="utf-8")
    return str(path)


def compile_one(part: Part, source: Path, method: str) -> Mapping[str, Any]:
    """One compilation, with a row a stage; what is returned is the row of the whole."""
    out = part.work / f"compiled-{method}"
    shutil.rmtree(out, ignore_errors=True)
    began = time.monotonic()
    with watch_host() as host:
        phases = Phases(partial(part.add, method=method), host)
        reset_peak()
        result = compile_model(
            CompileOptions(
                str(source),
                "60%" if part.tiny else "1B",
                out,
                method=method,
                data=write_text(part) if part.tiny else "stdlib",
                samples=8 if part.tiny else None,
                length=32 if part.tiny else None,
                backends=("huggingface",) if part.tiny else METHODS[method],
                device=str(part.device),
            ),
            phases,
        )
        phases.end()
    shutil.rmtree(out)
    after = next(measure.after for measure in result.measures if measure.name == "parameters")
    checks = sum(check.passed for check in result.checks)
    whole = f"whole: {after:,.0f} parameters, {checks} of {len(result.checks)} checks passed"
    return {"phase": whole, "seconds": round(time.monotonic() - began, 2)}


def measure(part: Part) -> None:
    began = time.monotonic()
    source = write_source(part)
    part.add(method="", phase="making the source", seconds=round(time.monotonic() - began, 2), gpu_gib=peak_gib())
    release()
    for method in list(METHODS)[-1:] if part.tiny else METHODS:
        part.attempt(partial(compile_one, part, source, method), method=method)


if __name__ == "__main__":
    run_part("compile-1b", measure)
