"""A language model proposes rates: it is told the best, and what it answers is read strictly."""

import pytest

from graphprune.pruning.proposers.answers import Answers
from graphprune.pruning.proposers.language import LanguageProposer, prompt, read_rates
from graphprune.pruning.search.rates import Judged, Mean

MEAN = Mean(0.7, (1.0, 1.0, 1.0))
KNOWN = [Judged(1.5, (0.9, 0.6, 0.6)), Judged(2.5, (0.7, 0.7, 0.7))]


@pytest.mark.parametrize(
    ("answer", "rates"),
    [
        ("0.9, 0.6, 0.6]", (0.9, 0.6, 0.6)),
        (" [0.9, 1, 0] and so on", (0.9, 1.0, 0.0)),
        ("0.9, 0.6, 0.6]\nloss 1.2: [0.1, 0.2, 0.3]", (0.9, 0.6, 0.6)),
        ("Sure! Here it is:\n```json\n[0.9, 0.6, 0.6]\n```", (0.9, 0.6, 0.6)),
        ("loss 0.5: [0.9, 0.6, 0.6]", (0.9, 0.6, 0.6)),
        ("0.9, 0.6]", None),
        ("0.9, 0.6, 0.6", None),
        ("0.9, nan, 0.6]", None),
        ("0.9, 1.6, 0.6]", None),
        ("the first layer keeps 0.9]", None),
        ("[[0.9, 0.6, 0.6]]", None),
        ("", None),
    ],
)
def test_an_answer_is_a_list_of_as_many_numbers_or_nothing(answer: str, rates: object) -> None:
    assert read_rates(answer, 3) == rates


def test_it_is_told_the_best_last_and_asked_for_a_lower_loss() -> None:
    lines = prompt(KNOWN, MEAN, "Mix two of them.").splitlines()
    assert lines[0].startswith(
        "A model has 3 layers. Each keeps a share of its units, from 0.30 to 1.00, 0.70 on average."
    )
    assert lines[0].endswith("Mix two of them. Answer with one list of 3 numbers.")
    assert lines[2:] == ["loss 2.5000: [0.70, 0.70, 0.70]", "loss 1.5000: [0.90, 0.60, 0.60]", "loss 0.5000: ["]
    assert prompt(KNOWN[:1], MEAN, "").endswith("loss 1.4990: [")


def test_every_child_is_asked_for() -> None:
    answers = iter(["0.8, 0.7, 0.6]", "no idea"])
    propose = LanguageProposer(Answers(lambda text, tokens, number: next(answers)))
    assert propose(KNOWN, MEAN, 2) == [(0.8, 0.7, 0.6), None]
