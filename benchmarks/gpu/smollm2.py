"""Part `smollm2`: SmolLM2-135M cut to 80 and 60 % by `compile`, recovered while there is time, and measured."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from part import Part, now, peak_gib, release, require_files, reset_peak, run_part
from smollm2_inputs import MIXTURE, WIKITEXT, Texts, convert, write_texts
from torch import Tensor

from graphprune.compiler.compile import compile_model
from graphprune.data.stream.packing import Stream, open_stream
from graphprune.data.tokens import encode, load_tokenizer
from graphprune.demo import DEMO_FOLDER
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.ir.placement import place
from graphprune.pipeline.options import CompileOptions
from graphprune.running.perplexity import perplexity
from graphprune.training.options import TrainOptions
from graphprune.training.train import train

SHARES = ("80%", "60%")
RESERVE = 12.0  # seconds for what follows a training: its evaluation, and writing rows
COMPILES = 35.0  # seconds of a compilation, kept for those to come
LR, DISTILL = 2e-4, 0.5


@dataclass(frozen=True)
class Size:
    """Rows and length of a step, steps of the trial that tells the speed, tokens of each text that are measured on."""

    rows: int = 32
    length: int = 512
    trial: int = 12
    measured: int = 65_536


FULL, TINY = Size(), Size(2, 32, 2, 512)


@dataclass(frozen=True, eq=False)
class Subject:
    """The dense model, its texts, and the tokens that all are measured on."""

    source: str
    dense: Graph
    texts: Texts
    tokenizer: Any
    size: Size
    stream: Stream
    held: Tensor
    other: Tensor


def prepare(part: Part) -> Subject:
    source, size = ("demo", TINY) if part.tiny else (convert(part), FULL)
    dense = place(capture(source, dtype=torch.float32), part.device)
    tokenizer, texts = load_tokenizer(DEMO_FOLDER if part.tiny else Path(source)), write_texts(part)

    def read(path: Path) -> Tensor:
        return encode(tokenizer, [path.read_text(encoding="utf-8")])[: size.measured]

    stream = open_stream(str(texts.train), tokenizer, size.length, 0, batch=size.rows)
    return Subject(source, dense, texts, tokenizer, size, stream, read(texts.held), read(texts.other))


def measure_model(subject: Subject, graph: Graph) -> dict[str, Any]:
    """Perplexity on WikiText-2, and bits per byte on what was held out of the mixture."""
    length, rows = subject.size.length, subject.size.rows
    size = len(subject.tokenizer.decode(subject.held).encode())
    other = perplexity(graph, subject.other, length, rows)
    held = perplexity(graph, subject.held, length, rows, text_bytes=size)
    assert held.bits_per_byte is not None
    found = {"perplexity": round(other.perplexity, 3), "bits_per_byte": round(held.bits_per_byte, 4)}
    return {**found, "parameters": graph.parameter_count()}


def cut(part: Part, subject: Subject, share: str, made: dict[str, Graph]) -> Mapping[str, Any]:
    """`compile` to a size, on the device; the artefact is read back and put into `made`."""
    out = part.work / f"smollm2-{share.rstrip('%')}"
    shutil.rmtree(out, ignore_errors=True)
    reset_peak()
    began = time.monotonic()
    options = CompileOptions(
        subject.source,
        share,
        out,
        method="adapt-pruner-ls",
        samples=8 if part.tiny else None,
        length=16 if part.tiny else None,
        data=str(subject.texts.train),
        held_out=str(subject.texts.held),
        backends=("huggingface",),
        device=str(part.device),
    )
    compile_model(options)
    seconds, peak = round(time.monotonic() - began, 1), peak_gib()
    made[share] = place(capture(out, trust_remote_code=True, dtype=torch.float32), part.device)
    return {**measure_model(subject, made[share]), "seconds": seconds, "peak_gib": peak}


def train_options(part: Part, subject: Subject, steps: int) -> TrainOptions:
    return TrainOptions(
        steps=steps,
        rows=subject.size.rows,
        lr=LR,
        precision="bf16",
        distill=DISTILL,
        teacher_dtype="bf16",
        keep="last",
        device=str(part.device),
    )


def measure_speed(part: Part, subject: Subject, graph: Graph) -> float:
    """Steps a second, from a short training that is thrown away; its first steps are in it, so it says rather less."""
    steps, began = subject.size.trial, now()
    train(graph, train_options(part, subject, steps), subject.stream, subject.dense)
    return steps / (now() - began)


def recover(part: Part, subject: Subject, graph: Graph, seconds: float) -> Mapping[str, Any]:
    """Train for about so many seconds in one schedule, and measure."""
    speed = measure_speed(part, subject, graph)
    steps = 2 if part.tiny else max(20, int(speed * (seconds - subject.size.trial / speed)))
    print(f"{steps} steps at {speed:.1f} a second", flush=True)
    reset_peak()
    began = now()
    trained = train(graph, train_options(part, subject, steps), subject.stream, subject.dense)
    spent, peak = now() - began, peak_gib()
    return {
        **measure_model(subject, trained.graph),
        "tokens": trained.tokens,
        "epochs": round(trained.tokens / subject.stream.tokens_per_epoch, 2),
        "tokens_per_second": round(trained.tokens / spent, 1),
        "seconds": round(spent, 1),
        "peak_gib": peak,
    }


def measure(part: Part) -> None:
    require_files(None if part.tiny else part.data, MIXTURE, WIKITEXT)
    subject = prepare(part)
    print(f"prepared with {part.left:.0f} s left", flush=True)
    part.attempt(partial(measure_model, subject, subject.dense), share="100%", state_of_model="dense")
    made: dict[str, Graph] = {}
    shares = SHARES[-1:] if part.tiny else SHARES
    for index, share in enumerate(shares):
        if not part.attempt(partial(cut, part, subject, share, made), share=share, state_of_model="cut"):
            continue
        others = len(shares) - index - 1
        seconds = (part.left - others * COMPILES) / (others + 1) - RESERVE
        work = partial(recover, part, subject, made.pop(share), seconds)
        part.attempt(work, share=share, state_of_model="recovered, half distilled")
        release()


if __name__ == "__main__":
    run_part("smollm2", measure)
