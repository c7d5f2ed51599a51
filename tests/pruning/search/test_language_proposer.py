"""A language model proposes rates: it is told the best, and what it answers is read strictly."""

from pathlib import Path

import pytest

from graphprune.errors import SourceError
from graphprune.pruning.search.language_proposer import LanguageProposer, open_writer, prompt, read_rates
from graphprune.pruning.search.rates import Judged, Mean
from tests.support.tiny_language import save_model

MEAN = Mean(0.7, (1.0, 1.0, 1.0))
KNOWN = [Judged(1.5, (0.9, 0.6, 0.6)), Judged(2.5, (0.7, 0.7, 0.7))]


@pytest.mark.parametrize(
    ("answer", "rates"),
    [
        ("0.9, 0.6, 0.6]", (0.9, 0.6, 0.6)),
        (" [0.9, 1, 0] and so on", (0.9, 1.0, 0.0)),
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


def test_it_is_told_the_best_last() -> None:
    text = prompt(KNOWN, MEAN, "Mix two of them.")
    assert text.index("[0.7, 0.7, 0.7] loss 2.5000") < text.index("[0.9, 0.6, 0.6] loss 1.5000")
    assert "A model has 3 layers" in text
    assert "from 0.30 to 1.00, 0.70 on average" in text
    assert text.endswith("Mix two of them. Answer with one list of 3 numbers.\n[")


def test_every_child_is_asked_for_and_kept() -> None:
    answers = iter(["0.8, 0.7, 0.6]", "no idea"])
    propose = LanguageProposer(lambda text, tokens: next(answers))
    assert propose(KNOWN, MEAN, 2) == [(0.8, 0.7, 0.6), None]
    assert [answer for _, answer in propose.asked] == ["0.8, 0.7, 0.6]", "no idea"]


def test_a_model_in_a_folder_writes_the_same_for_the_same_seed(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    one, other, third = (open_writer(folder, seed) for seed in (1, 1, 2))
    said = [one("the cat", 12), one("the cat", 12)]
    assert said == [other("the cat", 12), other("the cat", 12)]
    assert said[0] != said[1] or said[0] != third("the cat", 12)
    with pytest.raises(SourceError, match=r"the proposer in .*nothing cannot be opened"):
        open_writer(tmp_path / "nothing", 1)
