"""How likely a model finds given tokens after given others: batched by length, each distinct text run once.

Where the model can, what several texts begin with is run once as well. Logits are made where they are asked for alone.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from graphprune.data.common_starts import Key, Start, batch_starts, batches, find_starts
from graphprune.errors import DataError
from graphprune.running.runners import Runner

# Token ids [rows, length] to logits [rows, length, vocabulary].
Logits = Callable[[Tensor], Tensor]
# done, total
Count = Callable[[int, int], None]
IGNORED = -100
_CHUNK = 256  # tokens whose logits are there at once
_AGREE = 0.02  # nats a token, by which two ways to run a text may differ; half precision needs as much


@dataclass(frozen=True)
class Continuation:
    """Tokens to score after the tokens of their context, which has one at least."""

    context: tuple[int, ...]
    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.context or not self.tokens:
            raise DataError("a continuation needs a token before it and one of its own; the tokenizer made none")


@dataclass(frozen=True)
class Score:
    """Log-probability in nats, summed over the continuation, and whether greedy decoding would give it."""

    log_probability: float
    greedy: bool


@dataclass(frozen=True, eq=False)
class Reader:
    """A model as it reads texts: `runner` gives features [rows, length, ...], of which `head` makes logits.

    Without a head the features are the logits. `select` gives a cache's rows of these numbers, as a cache; None for a
    model whose cache has no rows to choose from.
    """

    runner: Runner
    head: Callable[[Tensor], Tensor] | None = None
    select: Callable[[object, Tensor], object] | None = None

    def read(self, ids: Tensor, before: int, past: object | None) -> tuple[Tensor, object]:
        """Features of token ids [rows, length] after so many others, and the cache; padding is on the right."""
        positions = torch.arange(before, before + ids.shape[1]).expand(ids.shape).contiguous()
        return self.runner(ids, torch.ones(len(ids), before + ids.shape[1], dtype=ids.dtype), positions, past)

    def logits(self, features: Tensor) -> Tensor:
        return features if self.head is None else self.head(features)


def score_continuations(
    reader: Reader,
    requests: Sequence[Continuation],
    batch: int,
    context: int | None = None,
    progress: Count | None = None,
) -> list[Score]:
    """Score each continuation, `batch` texts at a time, longest first.

    Texts of more than `context` input tokens lose their oldest ones. Raises DataError where a continuation alone is
    longer than the context.
    """
    places: dict[Key, list[int]] = {}
    for index, request in enumerate(requests):
        places.setdefault((trim(request, context), len(request.tokens)), []).append(index)
    found: dict[int, Score] = {}
    with torch.no_grad():
        for key, score in score_keys(reader, list(places), batch):
            found |= dict.fromkeys(places[key], score)
            if progress is not None:
                progress(len(found), len(requests))
    return [found[index] for index in range(len(requests))]


def trim(request: Continuation, context: int | None) -> tuple[int, ...]:
    """The text of a request, cut from the left so that all but its last token fit into the context."""
    if context is not None and len(request.tokens) > context:
        raise DataError(f"a continuation of {len(request.tokens)} tokens does not fit into the context of {context}")
    text = request.context + request.tokens
    return text if context is None else text[-(context + 1) :]


def score_keys(reader: Reader, keys: list[Key], batch: int) -> Iterator[tuple[Key, Score]]:
    """Every text and its score: those with a common start, then the others.

    A model that does not go on from a chosen cache as it reads a whole text, by the first of them, reads all whole.
    """
    starts = batch_starts(find_starts(keys, batch), batch) if reader.select is not None else []
    shared = chain.from_iterable(score_starts(reader, group, batch) for group in starts)
    first = next(shared, None)
    together: set[Key] = set()
    if first is not None and agrees(first, score_rows(reader, [first[0]])[0]):
        together = {key for group in starts for start in group for key in start.keys}
        yield from chain([first], shared)
    for rows in batches([key for key in keys if key not in together], batch):
        yield from zip(rows, score_rows(reader, rows), strict=True)


def agrees(one: tuple[Key, Score], other: Score) -> bool:
    (_, count), score = one
    return math.isclose(score.log_probability, other.log_probability, rel_tol=0, abs_tol=_AGREE * count)


def score_starts(reader: Reader, starts: Sequence[Start], batch: int) -> Iterator[tuple[Key, Score]]:
    """Score texts whose starts are of one length: these are run first, each once, then all that follows them."""
    assert reader.select is not None
    before = starts[0].length
    chosen, best, past = read_rows(reader, [start.scored for start in starts])
    rows = {key: row for row, start in enumerate(starts) for key in start.keys}
    for group in batches(list(rows), batch):
        own = torch.tensor([rows[key] for key in group])
        after = [(text[before:], min(count, len(text) - before - 1)) for text, count in group]
        for key, score in zip(group, score_rows(reader, after, before, reader.select(past, own)), strict=True):
            first = len(key[0]) - key[1] - 1  # the place that predicts the first token that is scored
            total = score.log_probability + float(chosen[rows[key], first:].sum())
            yield key, Score(total, score.greedy and bool(best[rows[key], first:].all()))


def score_rows(reader: Reader, keys: Sequence[Key], before: int = 0, past: object | None = None) -> list[Score]:
    """Score texts whose last so many tokens are the continuation; `past` is the cache of the tokens before them."""
    chosen, best, _ = read_rows(reader, keys, before, past)
    return [Score(float(total), bool(all_)) for total, all_ in zip(chosen.sum(1), best.all(1), strict=True)]


def read_rows(
    reader: Reader, keys: Sequence[Key], before: int = 0, past: object | None = None
) -> tuple[Tensor, Tensor, object]:
    """The scores of each token after the first [rows, length], see `token_scores`, and the cache.

    Rows are padded on the right, which no token sees.
    """
    width = max(len(text) for text, _ in keys)
    rows = torch.tensor([[*text, *[0] * (width - len(text))] for text, _ in keys])
    targets = rows[:, 1:].clone()
    for row, (text, count) in enumerate(keys):
        targets[row, : len(text) - 1 - count] = IGNORED
        targets[row, len(text) - 1 :] = IGNORED
    features, cache = reader.read(rows[:, :-1], before, past)
    return *token_scores(reader, features, targets), cache


def token_scores(reader: Reader, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The log-probability of each target [rows, length] in float32, and whether it is the likeliest token.

    Ignored targets score 0 and count as likeliest.
    """
    wanted = (targets != IGNORED).to(features.device)
    target = targets.to(features.device)[wanted]
    scores = torch.zeros(targets.shape, device=features.device)
    best = torch.ones(targets.shape, dtype=torch.bool, device=features.device)
    if len(target):
        parts = zip(torch.split(features[wanted], _CHUNK), torch.split(target, _CHUNK), strict=True)
        found = [score_tokens(reader.logits(part).float(), own) for part, own in parts]
        scores[wanted], best[wanted] = (torch.cat(each) for each in zip(*found, strict=True))
    return scores.cpu(), best.cpu()


def score_tokens(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The same of logits [tokens, vocabulary], all of whose targets count."""
    return logits.log_softmax(-1).gather(-1, target[:, None])[:, 0], logits.argmax(-1) == target
