"""Written by itself: documents that a model draws from its own predictions, kept for runs that ask for the same."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from graphprune.data.tokens import load_tokenizer
from graphprune.data.windows import first_token
from graphprune.errors import DataError, first_line
from graphprune.ir.contract import fitting_length, vocabulary_size
from graphprune.ir.graph import Graph
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.own_text import OwnText, own_text
from graphprune.progress import Progress, no_progress
from graphprune.running.runners import Runner, graph_runner

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROWS = 32  # documents that are written side by side
_LEAST = 16  # tokens of a document before it may end
_PLACE = "graphprune/text"


def with_own_text(options: CompileOptions, source: Graph, progress: Progress) -> CompileOptions:
    """The options with the file of the text that the model writes, where it is to write it. Raises DataError."""
    own = own_text(options.data)
    return options if own is None else replace(options, data=str(own_text_file(source, own, progress)), field="text")


def own_text_file(source: Graph, own: OwnText, progress: Progress = no_progress) -> Path:
    """The file, .jsonl, with the text that a decoder writes: what was kept of it, or written now.

    Batches of documents are kept as they are made, each with a seed of its own, so what was stopped goes on after the
    last and has the same text. Raises DataError for a model without a tokenizer, or where nothing can be kept.
    """
    if source.source.kind != "decoder" or source.source.files is None:
        raise DataError("--data self is for language models with a tokenizer: another model writes no text")
    path = place_of(source, own)
    if path.is_file():
        return path
    writer = Writer(graph_runner(source), load_tokenizer(source.source.files, source.source.trusted), own)
    writer = writer.fitted(fitting_length(source, own.length), vocabulary_size(source))
    parts = path.with_suffix(".parts")
    try:
        parts.mkdir(parents=True, exist_ok=True)
        written = list(keep_parts(parts, own.count, writer, progress))
        whole = parts / "whole"
        whole.write_text("".join(each.read_text(encoding="utf-8") for each in written), encoding="utf-8")
        os.replace(whole, path)
    except OSError as error:
        raise DataError(f"the text that the model writes cannot be kept in {parts}: {first_line(error)}") from error
    shutil.rmtree(parts, ignore_errors=True)
    return path


def place_of(source: Graph, own: OwnText) -> Path:
    """Where the text is kept: by the hashes of the source's files and by what was asked for."""
    asked = json.dumps([sorted(source.source.file_hashes.items()), own.draws, own.count], sort_keys=True)
    name = f"self-{own.count}-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.jsonl"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / _PLACE / name


def keep_parts(parts: Path, count: int, writer: "Writer", progress: Progress) -> Iterator[Path]:
    """The files of batches until they have so many tokens, each written where it is not there yet."""
    tokens = 0
    for number in range(count):  # a document has a token at least
        if tokens >= count:
            return
        progress("the model writes text", tokens, count)
        path = parts / f"{number:06}.jsonl"
        if not path.is_file():
            lines = [json.dumps({"text": text, "tokens": size}) for text, size in writer.documents(number)]
            unfinished = path.with_suffix(".unfinished")
            unfinished.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            os.replace(unfinished, path)
        tokens += sum(json.loads(line)["tokens"] for line in path.read_text(encoding="utf-8").splitlines())
        yield path


@final
@dataclass(frozen=True, eq=False)
class Writer:
    """Writes documents side by side, of the first `rows` tokens; no special one is written but the end."""

    runner: Runner
    tokenizer: "PreTrainedTokenizerBase"
    own: OwnText
    rows: int = 0
    length: int = 0

    def fitted(self, length: int, vocabulary: int | None) -> "Writer":
        """The same for documents that fit a context, and for the tokens that the model has rows for."""
        known = len(self.tokenizer)
        return Writer(self.runner, self.tokenizer, self.own, min(known, vocabulary or known), length)

    def documents(self, number: int) -> Iterator[tuple[str, int]]:
        """The texts of one batch, each with its number of tokens; the same for the same number."""
        random = np.random.default_rng([self.own.seed, number])
        first, end = first_token(self.tokenizer), self.tokenizer.eos_token_id
        plain = np.setdiff1d(np.arange(self.rows), self.tokenizer.all_special_ids)
        # Where texts begin with no token of their own, any token may be the first.
        begin = np.full(_ROWS, first) if first is not None else random.choice(plain, _ROWS)
        drawn = self.draw(begin, plain, end, random)
        for start, row in zip(begin, drawn.T, strict=True):
            ended = np.flatnonzero(row == end)
            made = row[: ended[0]] if len(ended) else row
            tokens = made if first is not None else [start, *made]
            text = str(self.tokenizer.decode([int(token) for token in tokens], skip_special_tokens=True))
            if text.strip():
                yield text, len(tokens)

    def draw(self, begin: np.ndarray, plain: np.ndarray, end: int | None, random: np.random.Generator) -> np.ndarray:
        """Tokens [steps, documents] behind the first ones, until all documents have ended."""
        allowed = allow(self.rows, plain, end)
        ids, past, drawn = torch.from_numpy(begin[:, None].astype(np.int64)), None, list[np.ndarray]()
        over = np.zeros(len(begin), bool)
        for step in range(self.length - 1):
            mask = torch.ones(len(begin), step + 1, dtype=torch.long)
            with torch.no_grad():
                logits, past = self.runner(ids, mask, torch.full((len(begin), 1), step), past)
            found = logits[:, -1, : self.rows].float().cpu().numpy() + allowed(step)
            tokens = self.own.sampling.choose(found, random)
            drawn.append(tokens)
            over |= tokens == end
            if over.all():
                break
            ids = torch.from_numpy(tokens[:, None])
        return np.stack(drawn)


def allow(rows: int, plain: np.ndarray, end: int | None) -> Callable[[int], np.ndarray]:
    """What is added to the logits at a step: nothing for tokens that may come, minus infinity for others."""
    early = np.full(rows, -np.inf, np.float32)
    early[plain] = 0.0
    late = early.copy()
    if end is not None and end < rows:
        late[end] = 0.0
    return lambda step: early if step < _LEAST else late
