"""How likely a model finds given tokens after given others: batched by length, each distinct text run once.

Where the model can, a context that several continuations follow is run once as well.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from graphprune.errors import DataError

# Token ids [rows, length] to logits [rows, length, vocabulary].
Logits = Callable[[Tensor], Tensor]
# Token ids [1, length] of a context and [rows, length] after it to the latter's logits.
Branches = Callable[[Tensor, Tensor], Tensor]
# done, total
Count = Callable[[int, int], None]
IGNORED = -100
_SAVED = 32  # tokens, from which running a context apart pays
Key = tuple[tuple[int, ...], int]  # a text, and how many tokens at its end are the continuation


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


def score_continuations(
    logits: Logits,
    requests: Sequence[Continuation],
    batch: int,
    context: int | None = None,
    progress: Count | None = None,
    branches: Branches | None = None,
) -> list[Score]:
    """Score each continuation, `batch` texts at a time, longest first.

    With `branches` continuations of the same context are a batch of their own where that saves work. Texts of more
    than `context` input tokens lose their oldest ones. Raises DataError where a continuation alone is longer than the
    context.
    """
    texts = [trim(request, context) for request in requests]
    places: dict[Key, list[int]] = {}
    for index, (text, request) in enumerate(zip(texts, requests, strict=True)):
        places.setdefault((text, len(request.tokens)), []).append(index)
    found: list[Score | None] = [None] * len(requests)
    done = 0
    shared = share(list(places), batch) if branches is not None else []
    together = set(chain.from_iterable(shared))
    for group in (*shared, *batches([key for key in places if key not in together], batch)):
        run = score_batch(logits, group) if branches is None or group[0] not in together else follow(branches, group)
        for key, score in zip(group, run, strict=True):
            for index in places[key]:
                found[index] = score
            done += len(places[key])
        if progress is not None:
            progress(done, len(requests))
    return [score for score in found if score is not None]


def trim(request: Continuation, context: int | None) -> tuple[int, ...]:
    """The text of a request, cut from the left so that all but its last token fit into the context."""
    if context is not None and len(request.tokens) > context:
        raise DataError(f"a continuation of {len(request.tokens)} tokens does not fit into the context of {context}")
    text = request.context + request.tokens
    return text if context is None else text[-(context + 1) :]


def share(keys: Sequence[Key], size: int) -> list[list[Key]]:
    """Groups of texts that differ in their continuations alone, where it saves work to run the context once."""
    alike: dict[tuple[int, ...], list[Key]] = {}
    for text, count in keys:
        alike.setdefault(text[:-count], []).append((text, count))
    worth = [group for context, group in alike.items() if (len(group) - 1) * (len(context) - 1) >= _SAVED]
    return [part for group in sorted(worth, key=lambda group: -len(group[0][0])) for part in batches(group, size)]


def follow(branches: Branches, group: Sequence[Key]) -> list[Score]:
    """Score texts that share their context, which is run once up to its last token."""
    text, count = group[0]
    before = len(text) - count - 1
    run = partial(branches, torch.tensor([text[:before]]))
    return score_batch(run, [(text[before:], count) for text, count in group])


def batches(keys: list[Key], size: int) -> Iterator[list[Key]]:
    """Groups of texts of like length, the longest first, so that what does not fit into memory fails at once."""
    keys.sort(key=lambda key: (-len(key[0]), key))
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def score_batch(logits: Logits, group: Sequence[Key]) -> list[Score]:
    """Score texts whose last so many tokens are the continuation. Rows are padded on the right, which no token sees."""
    width = max(len(text) for text, _ in group)
    rows = torch.tensor([[*text, *[0] * (width - len(text))] for text, _ in group])
    targets = rows[:, 1:].clone()
    for row, (text, count) in enumerate(group):
        targets[row, : len(text) - 1 - count] = IGNORED
        targets[row, len(text) - 1 :] = IGNORED
    chosen, best = token_scores(logits(rows[:, :-1]), targets)
    return [Score(float(total), bool(all_)) for total, all_ in zip(chosen.sum(1), best.all(1), strict=True)]


def token_scores(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The log-probability of each target [rows, length] in float32, and whether it is the likeliest token.

    `logits` is [rows, length, vocabulary]. Ignored targets score 0 and count as likeliest.
    """
    wanted = (targets != IGNORED).to(logits.device)
    picked = logits[wanted].float()
    target = targets.to(logits.device)[wanted]
    scores = torch.zeros(targets.shape, device=logits.device)
    scores[wanted] = picked.log_softmax(-1).gather(-1, target[:, None])[:, 0]
    best = torch.ones(targets.shape, dtype=torch.bool, device=logits.device)
    best[wanted] = picked.argmax(-1) == target
    return scores.cpu(), best.cpu()
