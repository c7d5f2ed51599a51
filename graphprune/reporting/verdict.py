"""The verdict: in words, how much of a model's quality is left, from held-out text or from embeddings of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from graphprune.data.calibration import Text
from graphprune.data.ngrams import bits_per_byte, guess_bits_per_byte
from graphprune.encoders.agreement import Agreement
from graphprune.evaluation.measure import Measure
from graphprune.evaluation.variants import PERPLEXITY
from graphprune.running.comparison import Check
from graphprune.running.perplexity import Perplexity

Standing = Literal["kept", "trainable", "broken", "unknown"]
WORDS: Mapping[Standing, str] = {
    "kept": "quality kept",
    "trainable": "usable after training",
    "broken": "broken",
    "unknown": "quality not measured",
}
KEPT = 0.05  # more bits than the source takes: less than lies between neighbours in a family of models (decision 0029)
ALIKE, STRANGE = 0.95, 0.5  # rank correlations of similarities: kept from the one on, broken below the other
_COARSE = f"it loses more than {KEPT:.0%} to fewer bits: take more bits where that matters"
_USELESS = "no better than counted trigrams: do not use it, take more bits"


@dataclass(frozen=True)
class Floor:
    """Bits a byte that need no model: of trigrams of the calibration text, and of a guess among all tokens."""

    trigrams: float
    guess: float

    @property
    def least(self) -> float:
        return min(self.trigrams, self.guess)


@dataclass(frozen=True)
class Verdict:
    """What is left in a word and in a sentence, and the numbers behind it, in bits a byte."""

    standing: Standing
    reason: str
    before: float | None = None
    after: float | None = None
    floor: Floor | None = None

    def __str__(self) -> str:
        return f"{WORDS[self.standing]}: {self.reason}"


def floor_of(text: Text, vocabulary: int) -> Floor:
    """What the held-out text takes without a model."""
    held, size = text.held_out, text.held_out_bytes
    return Floor(bits_per_byte(text.batches, vocabulary, held, size), guess_bits_per_byte(vocabulary, held, size))


def judge(before: Perplexity | None, after: Perplexity | None, floor: Floor | None, trained: bool) -> Verdict:
    """The verdict on a result beside its source, both measured on the same text."""
    if before is None or after is None or floor is None:
        return Verdict("unknown", "no held-out text was measured on; `graphprune eval OUT --against MODEL` does")
    old, new = before.bits_per_byte or math.nan, after.bits_per_byte or math.nan
    said = f"{new:.3g} bits a byte on held-out text, {old:.3g} before ({new / old - 1:+.0%})"
    least = f"trigrams of the calibration text take {floor.trigrams:.3g}, a guess {floor.guess:.3g}"
    if not old < floor.least:
        reason = f"the source is itself no better than counting on this text, {old:.3g} bits a byte where {least}"
        return Verdict("unknown", f"{reason}; give text of its kind with --data", old, new, floor)
    if not new < floor.least:
        remedy = "keep more of it" if trained else "keep more of it, or train it (--method adapt-accel)"
        return Verdict("broken", f"{said}, where {least}; {remedy}", old, new, floor)
    if new <= (1 + KEPT) * old:
        return Verdict("kept", said, old, new, floor)
    remedy = "train it further (--train-tokens)" if trained else "train it (--method adapt-accel)"
    return Verdict("trainable", f"{said}; {remedy}; {least}", old, new, floor)


def judge_embeddings(found: Sequence[tuple[str, Agreement]], trained: bool) -> Verdict:
    """The verdict on a model of embeddings: whether what is similar is still so, by the worst of its embeddings."""
    known = [each for _, each in found if math.isfinite(each.ranks)]
    if not known:
        return Verdict("unknown", "no passages were measured on; give --data with lines of text")
    worst = min(known, key=lambda each: each.ranks)
    said = (
        f"similarities of {worst.count} held-out examples rank as the source's with a correlation of "
        f"{worst.ranks:.3g}, "
        f"the mean cosine of embeddings with its own is {worst.cosine:.3g}"
    )
    if worst.ranks >= ALIKE:
        return Verdict("kept", said)
    remedy = "keep more of it" if trained else "keep more of it, or give text of its kind with --data"
    return Verdict("trainable" if worst.ranks >= STRANGE else "broken", f"{said}; {remedy}")


def judge_variants(
    measures: Sequence[Measure], full: Perplexity | None, text: Text | None, floor: Floor | None
) -> tuple[Check, ...]:
    """A check of each further model by what it loses on the held-out text, in nats a token, beside the graph."""
    if full is None or text is None or floor is None or full.nats_per_token <= 0:
        return ()
    least = floor.least * math.log(2) * text.held_out_bytes / max(1, full.tokens)
    found = [(m.name.removeprefix(PERPLEXITY), m.after) for m in measures if m.name.startswith(PERPLEXITY)]
    return tuple(judge_variant(place, perplexity, full.nats_per_token, least) for place, perplexity in found)


def judge_variant(place: str, perplexity: float | None, full: float, least: float) -> Check:
    """`full` are the nats of the graph, `least` those that need no model; what the graph lacks is not the variant's."""
    nats = math.log(perplexity) if perplexity is not None else math.inf
    more = nats / full - 1
    passed = nats < least or full >= least
    advice = "" if more <= KEPT else _COARSE if passed else _USELESS
    return Check(place, "held-out text", more, KEPT, full, passed, f"{round(more, 3) + 0.0:+.1%} nats a token", advice)
