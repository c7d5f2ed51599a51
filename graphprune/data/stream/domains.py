"""Domains: several texts in one name, `web.txt,code.txt` or `web.txt=0.7,code.txt=0.3`, with what each weighs."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphprune.data.splits import split_name
from graphprune.errors import UsageError
from graphprune.paths import path_of

_PIECE = 4096  # bytes of a document in which domains take turns
_WATCHED = 0.4  # of each held-out text: a report takes half of all at most, from the beginnings


@dataclass(frozen=True)
class Domain:
    """One of several texts: its name as `read_texts` takes it, and its share of what is read of all."""

    spec: str
    weight: float


def split_domains(spec: str) -> tuple[Domain, ...]:
    """The texts that a name stands for, with weights that sum to 1: equal ones where none is given.

    A file whose own name has a comma is one text. Raises UsageError for a text without a name or named twice, and for
    weights that are not above 0 or not given for all.
    """
    parts = [spec] if "," not in spec or path_of(split_name(spec)[0]).exists() else spec.split(",")
    if len(parts) == 1:
        return (Domain(spec, 1.0),)
    read = [split_weight(part.strip()) for part in parts]
    names = [name for name, _ in read]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if not all(names) or twice is not None:
        wrong = f"names {twice} twice" if twice is not None else "has a text without a name"
        raise UsageError(f"{spec[:100]!r} {wrong}; write the texts with commas between them, a.txt,b.txt")
    given = [weight for _, weight in read if weight is not None]
    if given and len(given) < len(read):
        raise UsageError(f"{spec[:100]!r} weighs some texts and others not; give a weight to each, a.txt=2,b.txt=1")
    if not all(0 < weight < math.inf for weight in given):
        raise UsageError(f"{spec[:100]!r}: a text weighs more than 0; leave out what is not to be read")
    weights = given or [1.0] * len(read)
    return tuple(Domain(name, weight / sum(weights)) for name, weight in zip(names, weights, strict=True))


def split_weight(part: str) -> tuple[str, float | None]:
    """A text and the number behind its name: `web.txt=0.7`."""
    name, equals, number = part.rpartition("=")
    try:
        return (name, float(number)) if equals else (part, None)
    except ValueError:
        return part, None


def each_domain(spec: str, change: Callable[[str], str]) -> str:
    """The same texts under other names, with their weights."""
    domains = split_domains(spec)
    if len(domains) == 1:
        return change(spec)
    even = len({domain.weight for domain in domains}) == 1
    return ",".join(change(d.spec) if even else f"{change(d.spec)}={d.weight:g}" for d in domains)


def train_of(text: str) -> str:
    """The part of a text that is trained on."""
    return text if text == "stdlib" else f"{text}#train"


def held_out_of(text: str) -> str:
    """The part of a text that is held out."""
    return "stdlib:held-out" if text == "stdlib" else f"{text}#held-out"


def interleaved(domains: Sequence[Sequence[str]]) -> list[str]:
    """The documents of all domains in turns of some kilobytes, so that any beginning has something of each."""
    queues = [[piece for document in documents for piece in pieces(document)] for documents in domains]
    longest = max(map(len, queues), default=0)
    return [queue[place] for place in range(longest) for queue in queues if place < len(queue)]


def pieces(document: str) -> list[str]:
    """A document in parts of about so many bytes, cut between characters."""
    size = max(1, _PIECE * len(document) // max(1, len(document.encode("utf-8", "replace"))))
    return [document[start : start + size] for start in range(0, len(document), size)]


def beginning_and_end(documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """The part of a domain's held-out text that may be reported on, and the end, by which weights are moved."""
    left = round((1 - _WATCHED) * sum(map(len, documents)))
    first, last = list[str](), list[str]()
    for document in documents:
        first += [document[:left]] if left > 0 else []
        last += [document[max(0, left) :]] if left < len(document) else []
        left -= len(document)
    return first, last
