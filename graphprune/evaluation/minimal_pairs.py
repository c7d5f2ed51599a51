"""Minimal pairs: how often a model finds the grammatical sentence of a pair likelier than the other (BLiMP)."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graphprune.data.stream.lead import find_lead
from graphprune.data.tokenizer_files import encoding
from graphprune.errors import DataError, UsageError
from graphprune.evaluation.language_model import LanguageModel, of_graph
from graphprune.ir.graph import Graph
from graphprune.running.likelihood import Continuation, score_continuations

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 64


@dataclass(frozen=True)
class Pair:
    """Two sentences that differ in one thing; `good` is the grammatical one."""

    good: str
    bad: str


@dataclass(frozen=True)
class PairScore:
    """The share of pairs whose good sentence is at least as likely as the bad one, and its standard error."""

    name: str
    accuracy: float
    standard_error: float
    pairs: int


def minimal_pairs(
    model: Graph | LanguageModel,
    files: Sequence[Path],
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    limit: int | None = None,
    batch: int = _BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[PairScore, ...]:
    """Score the pairs of each .jsonl file (`sentence_good`, `sentence_bad`; the first `limit` of them), in file order.

    A sentence's score is the sum of the log-probabilities of its tokens after the tokenizer's first token, as in
    lm-eval's `blimp` tasks; so are ties, which only sentences of equal tokens give: they count as correct.
    Raises DataError for files that hold no pairs.
    """
    model = of_graph(model, tokenizer) if isinstance(model, Graph) else model
    sets = {path.stem: read_pairs(path, limit) for path in files}
    requests = [
        sentence(model.tokenizer, text) for pairs in sets.values() for pair in pairs for text in (pair.good, pair.bad)
    ]
    scores = [s.log_probability for s in score_continuations(model.reader, requests, batch, model.context, progress)]
    right = iter([good >= bad for good, bad in zip(scores[::2], scores[1::2], strict=True)])
    return tuple(summarize(name, [next(right) for _ in pairs]) for name, pairs in sets.items())


def mean_accuracy(scores: Sequence[PairScore]) -> float:
    """The mean over sets, each weighing the same."""
    return sum(score.accuracy for score in scores) / len(scores)


def read_pairs(path: Path, limit: int | None = None) -> list[Pair]:
    """The pairs of a .jsonl file. Raises DataError naming the line that is none."""
    if not path.is_file():
        raise DataError(f"no file of minimal pairs at {path}")
    with path.open(encoding="utf-8") as file:
        lines = [line for line in file if line.strip()][:limit]
    if not lines:
        raise DataError(f"{path} holds no pairs")
    return [parse_pair(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]


def parse_pair(line: str, place: str) -> Pair:
    try:
        row = json.loads(line)
        return Pair(str(row["sentence_good"]), str(row["sentence_bad"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{place}: expected sentence_good and sentence_bad in a JSON object") from error


def sentence(tokenizer: "PreTrainedTokenizerBase", text: str) -> Continuation:
    """A whole sentence after the first token, with the space that lm-eval puts between a prompt and its answer.

    Where the tokenizer has a learned prompt it stands behind that.
    """
    first, lead = first_token(tokenizer), find_lead(tokenizer)
    with encoding():
        tokens = tokenizer.encode(f" {text}", add_special_tokens=False)
    return Continuation(lead.tokens or (first,), tuple(tokens[1:] if tokens[:1] == [first] else tokens))


def first_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token that stands before a text: the first token, or the end token where there is none."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise UsageError("the tokenizer has neither a first nor an end token; set bos_token in tokenizer_config.json")


def summarize(name: str, right: Sequence[bool]) -> PairScore:
    """The accuracy with the standard error of a mean, over n - 1 as in lm-eval."""
    count, accuracy = len(right), sum(right) / len(right)
    error = math.sqrt(accuracy * (1 - accuracy) / (count - 1)) if count > 1 else 0.0
    return PairScore(name, accuracy, error, count)
