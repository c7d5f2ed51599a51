"""Domain streams: a text opened for training, or several as a mixture, and the held-out text of each."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from graphprune.data.calibration import held_out_parts
from graphprune.data.conversations import LossOn, renderer
from graphprune.data.sources import read_texts, shown_text
from graphprune.data.splits import split_name
from graphprune.data.stream.domains import Domain, split_domains
from graphprune.data.stream.mixture import Mixture, Segment
from graphprune.data.stream.packing import Stream, open_stream
from graphprune.data.tokens import encode
from graphprune.errors import DataError
from graphprune.progress import Progress, no_progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Packing:
    """How text becomes rows: see `open_stream`, which has the same arguments."""

    length: int
    seed: int
    field: str = "text"
    loss_on: LossOn = "all"
    vocabulary: int | None = None
    bos: bool = False
    batch: int = 1
    limit_tokens: int | None = None
    folder: Path | None = None
    progress: Progress = no_progress


def open_mixture(spec: str, tokenizer: "PreTrainedTokenizerBase", packing: Packing) -> Stream | Mixture:
    """The rows of a text, or of several, `a.txt=2,b.txt=1`, in the proportion of their weights.

    Each of several is read as far as its share of the limit goes, and is shuffled by itself. Raises as `open_stream`
    does.
    """
    domains = split_domains(spec)
    if len(domains) == 1:
        return open_stream(spec, tokenizer, **vars(packing))
    streams = tuple(open_domain(domain, tokenizer, packing) for domain in domains)
    return Mixture(tuple(names_of(domains)), streams, (Segment(0, tuple(domain.weight for domain in domains)),))


def open_domain(domain: Domain, tokenizer: "PreTrainedTokenizerBase", packing: Packing) -> Stream:
    """The rows of one of several texts. Weights may rise, so it is read as far as twice its share."""
    limit = packing.limit_tokens
    share = None if limit is None else max(packing.length, round(min(1.0, 2 * domain.weight) * limit))
    return open_stream(domain.spec, tokenizer, **{**vars(packing), "limit_tokens": share, "batch": 1})


def names_of(domains: tuple[Domain, ...]) -> Iterator[str]:
    """What each domain is called: the last name of its file, with a number where two are alike."""
    seen = dict[str, int]()
    for domain in domains:
        name = shown_text(split_name(domain.spec)[0])
        seen[name] = seen.get(name, 0) + 1
        yield name if seen[name] == 1 else f"{name} {seen[name]}"


def read_domains(
    held_out: str, mixture: Mixture, tokenizer: "PreTrainedTokenizerBase", field: str
) -> tuple[Tensor, ...] | None:
    """The end of each domain's held-out text [tokens], which no report measures on; None where these are not as many.

    Raises DataError for one that is too short to predict anything.
    """
    if len(split_domains(held_out)) != len(mixture.names):
        return None
    read = partial(read_texts, field=field, render=renderer(tokenizer))
    texts = tuple(encode(tokenizer, last) for _, last in held_out_parts(read, held_out))
    short = next((name for name, text in zip(mixture.names, texts, strict=True) if len(text) < 2), None)
    if short is not None:
        raise DataError(f"the held-out text of the domain {short} has no two tokens; give more text")
    return texts
