"""What the cells of `accel` start from: the dense model on the device, its rows, and texts that are not trained on."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from graphprune.data.calibration import Text, prepare_text
from graphprune.data.stream.packing import Stream, open_stream
from graphprune.data.tokens import encode, load_tokenizer
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.ir.placement import place
from graphprune.running.perplexity import perplexity

MODEL = "models/stories3M-hf"
STORIES = "corpora/tinystories"
TEXTS = ("tinystories_lower_4MB.txt", "tinystories_train_head_2MiB.txt")
VALIDATION = "tinystories_val_794K.txt"
HELD_BYTES = 100_000  # of the validation split, and of the end of the train split for choosing rates


@dataclass(frozen=True)
class Size:
    """How large everything is: rows and length of a step, calibration windows and their length."""

    rows: int = 64
    length: int = 256
    samples: int = 32
    window: int = 128

    @property
    def step(self) -> int:
        return self.rows * self.length


FULL, TINY = Size(), Size(rows=2, length=32, samples=4, window=16)


@dataclass(frozen=True, eq=False)
class Held:
    """Text that is not trained on."""

    tokens: Tensor
    size: int
    bos: int | None

    def bits(self, graph: Graph, length: int) -> float:
        found = perplexity(graph, self.tokens, length, 64, bos=self.bos, text_bytes=self.size).bits_per_byte
        assert found is not None
        return found


@dataclass(frozen=True, eq=False)
class Subject:
    """The dense model on the device, the rows that are trained on, and texts to calibrate, choose and report on."""

    graph: Graph
    size: Size
    stream: Stream
    text: Text
    reported: Held
    chosen_on: Held
    cuts: dict[str, Graph] = field(default_factory=dict)


def write_text(data: Path, folder: Path) -> tuple[Path, str]:
    """The text that is trained on, as one file, and the end of the cased part that is left out of it."""
    folder.mkdir(parents=True, exist_ok=True)
    lower, cased = (data / STORIES / name for name in TEXTS)
    held = cased.read_bytes()[-HELD_BYTES:]
    path = folder / "stories.txt"
    part = path.with_suffix(f".{time.monotonic_ns()}")
    part.write_bytes(lower.read_bytes() + b"\n" + cased.read_bytes()[:-HELD_BYTES].rsplit(b"\n", 1)[0])
    part.replace(path)
    return path, held.decode("utf-8", "ignore")


def prepare(data: Path | None, work: Path, device: torch.device) -> Subject:
    """stories3M and TinyStories, or without `data` what the package brings: its model and its standard text."""
    size = TINY if data is None else FULL
    folder = "demo" if data is None else str(data / MODEL)
    graph = place(capture(folder, dtype=torch.float32), device)
    assert graph.source.files is not None
    tokenizer = load_tokenizer(graph.source.files)

    def hold(text: str) -> Held:
        return Held(encode(tokenizer, [text]), len(text.encode()), tokenizer.bos_token_id)

    if data is None:
        text = prepare_text(graph, "stdlib", size.samples, size.window, 0)
        stream = open_stream("stdlib", tokenizer, size.length, 0, bos=True, batch=size.rows, limit_bytes=20_000)
        held = Held(text.held_out[:500], 1500, text.bos)
        return Subject(graph, size, stream, text, held, held)
    path, rest = write_text(data, work)
    text = prepare_text(graph, str(path), size.samples, size.window, 0, str(data / STORIES / VALIDATION))
    stream = open_stream(str(path), tokenizer, size.length, 0, bos=True, batch=size.rows)
    validation = (data / STORIES / VALIDATION).read_bytes()[:HELD_BYTES].decode("utf-8", "ignore")
    return Subject(graph, size, stream, text, hold(validation), hold(rest))
