"""Domains in training: the loss on each domain's held-out text, and weights that go to those that lag behind.

    delta_d = max(loss_d - reference_d, 0)
    w <- softmax(log w + eta * delta);  w <- (1 - smoothing) * w + smoothing / k

Source: dynamic batch loading of Sheared LLaMA, arXiv 2310.06694 (the maximum is the paper's; its code leaves it out).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from graphprune.bounds import Positive, Share, Whole
from graphprune.data.stream.mixture import Mixture, Segment
from graphprune.errors import UsageError
from graphprune.training.session import Session, Stream


@dataclass(frozen=True)
class Weighing:
    """How weights of domains move: every `reweigh` steps, 0 for never, towards domains whose loss is above `references`
    [nats a token], one for each domain in order; the unpruned model's own losses where none are given. `smoothing` is
    the share that all domains have together whatever their losses are."""

    reweigh: Whole = 0
    references: tuple[float, ...] = ()
    eta: Positive = 1.0
    smoothing: Share = 1e-4


@dataclass(frozen=True, eq=False)
class Domains:
    """The held-out text of each domain of a mixture [tokens], in order, and how weights move."""

    texts: tuple[Tensor, ...]
    weighing: Weighing


def reweighed(
    weights: Sequence[float], losses: Sequence[float], references: Sequence[float], eta: float, smoothing: float
) -> tuple[float, ...]:
    """The weights after a look at the losses; all are above 0 and they sum to 1."""
    excess = [max(loss - reference, 0.0) for loss, reference in zip(losses, references, strict=True)]
    logs = [math.log(weight) + eta * each for weight, each in zip(weights, excess, strict=True)]
    powers = [math.exp(each - max(logs)) for each in logs]
    mixed = [(1 - smoothing) * power / sum(powers) + smoothing / len(weights) for power in powers]
    return tuple(weight / sum(mixed) for weight in mixed)


def require_domains(domains: Domains | None, stream: Stream) -> None:
    """Raise UsageError where texts, references and the domains of the stream are not as many."""
    if domains is None:
        return
    if not isinstance(stream, Mixture):
        raise UsageError("domains are those of a mixture; name several texts with --data a.txt,b.txt")
    count, given = len(stream.names), len(domains.weighing.references)
    if len(domains.texts) != count:
        raise UsageError(f"{count} domains need as many held-out texts, not {len(domains.texts)}")
    if domains.weighing.reweigh and given != count:
        raise UsageError(f"{count} domains need as many references, one loss each in their order, not {given}")


def moved(session: Session, step: int, losses: Mapping[str, float]) -> Session:
    """The session whose rows after a step have the weights that these losses ask for."""
    stream, options = session.stream, session.options
    assert isinstance(stream, Mixture)
    assert session.domains is not None
    way = session.domains.weighing
    found = [losses[name] for name in stream.names]
    weights = reweighed(stream.segments[-1].weights, found, way.references, way.eta, way.smoothing)
    batch = options.rows * options.accumulate * int(session.accelerator.num_processes)
    return replace(session, stream=stream.reweighed(options.first_row + step * batch, weights))


def segments_of(stream: Stream) -> tuple[Segment, ...]:
    """The weights of a mixture so far; none of a single text."""
    return stream.segments if isinstance(stream, Mixture) else ()


def with_segments(session: Session, segments: Sequence[tuple[int, Sequence[float]]]) -> Session:
    """The session of a mixture with the weights that a saved one had."""
    stream = session.stream
    if not segments or not isinstance(stream, Mixture):
        return session
    read = tuple(Segment(start, tuple(weights)) for start, weights in segments)
    return replace(session, stream=replace(stream, segments=read))
