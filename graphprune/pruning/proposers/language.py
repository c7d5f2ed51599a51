"""A language model as proposer: it is shown the best rates so far and asked for others, in words."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from graphprune.pruning.proposers.answers import Answers
from graphprune.pruning.search.rates import Judged, Mean, Rates

_SHOWN = 8  # sets of rates in a prompt
_TOKENS = 8  # that a model may take for a rate: digits, a point and a comma


@final
@dataclass(frozen=True, eq=False)
class LanguageProposer:
    """Asks a language model for each child; an answer that is no list of as many numbers counts as unread."""

    answers: Answers

    def __call__(self, known: Sequence[Judged], mean: Mean, count: int, /) -> Sequence[Rates | None]:
        layers = len(mean.sizes)
        found = list[Rates | None]()
        for number in range(count):
            text = prompt(known, mean, "Mix two of them." if number % 2 else "Change a few numbers of the best.")
            answer = self.answers(text, _TOKENS * layers)
            found.append(None if answer is None else read_rates(answer, layers))
        return found


def prompt(known: Sequence[Judged], mean: Mean, task: str) -> str:
    """What a model is told: the best so far, worst first, and a loss a little better than theirs, to be gone on from.

    A small model that only continues text follows the lines it sees; with the loss before its rates, and an aim at the
    end, it writes lists of the right length, which it does not behind words that ask for them.
    """
    shown, layers = known[:_SHOWN], len(mean.sizes)
    step = max(1e-3, (shown[-1].value - shown[0].value) / max(1, len(shown) - 1))
    told = [
        f"A model has {layers} layers. Each keeps a share of its units, from {mean.least:.2f} to {mean.most:.2f}, "
        f"{mean.share:.2f} on average. A lower loss is better. {task} Answer with one list of {layers} numbers.",
        "",
        *(f"loss {each.value:.4f}: [{show(each.rates)}]" for each in reversed(shown)),
        f"loss {shown[0].value - step:.4f}: [",
    ]
    return "\n".join(told)


def show(rates: Rates) -> str:
    return ", ".join(f"{rate:.2f}" for rate in rates)


def read_rates(answer: str, layers: int) -> Rates | None:
    """The rates of the first list in an answer, or before the first bracket that closes, as one goes on behind `[`.

    None where that is no list of so many numbers from 0 to 1.
    """
    inside = re.match(r"(?:[^\[\]]*\[)?([^\[\]]*)\]", answer)
    if inside is None:
        return None
    try:
        rates = tuple(float(word) for word in inside.group(1).split(","))
    except ValueError:
        return None
    return rates if len(rates) == layers and all(math.isfinite(r) and 0 <= r <= 1 for r in rates) else None
