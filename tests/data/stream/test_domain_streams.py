"""Domain streams: one text is as it was, several are a mixture with held-out ends that no report measures on."""

from functools import partial
from pathlib import Path

import pytest
import torch

from graphprune.data.calibration import held_out_part, held_out_parts, read_held_out, split_text, training_part
from graphprune.data.fingerprints import fingerprint
from graphprune.data.sources import look_at_text, read_texts, shown_source
from graphprune.data.stream.domain_streams import Packing, open_mixture, read_domains
from graphprune.data.stream.mixture import Mixture
from graphprune.data.stream.packing import open_stream
from graphprune.errors import DataError
from tests.passes.test_recover import words

PACKING = Packing(length=8, seed=3, limit_tokens=4000)


@pytest.fixture
def texts(tmp_path: Path) -> str:
    """Two files: low numbers, and high ones."""
    for name, first in (("low.txt", 0), ("high.txt", 40)):
        (tmp_path / name).write_text(" ".join(str(first + k % 20) for k in range(3000)))
    return f"{tmp_path}/low.txt=3,{tmp_path}/high.txt=1"


def test_one_text_is_the_stream_that_it_was(texts: str) -> None:
    one = texts.partition("=")[0]
    made, plain = open_mixture(one, words(), PACKING), open_stream(one, words(), 8, 3, limit_tokens=4000)
    assert made.fingerprint == plain.fingerprint
    assert torch.equal(made.rows(5, 9)[0], plain.rows(5, 9)[0])


def test_several_texts_are_a_mixture_in_the_proportion_of_their_weights(texts: str) -> None:
    made = open_mixture(texts, words(), PACKING)
    assert isinstance(made, Mixture)
    assert made.names == ("low.txt", "high.txt")
    high = (made.rows(0, 40)[0] >= 40).all(1)
    assert int(high.sum()) == 10 == made.counts(40)[1]


def test_parts_are_told_for_each_text_and_share_nothing(texts: str) -> None:
    train, held = training_part(texts, None), held_out_part(texts, None)
    assert [name.count("#train") for name in train.split(",")] == [1, 1]
    assert shown_source(held) == "low.txt#held-out=0.75,high.txt#held-out=0.25"
    look_at_text(train, "text")
    calibrated, reported = split_text(read_texts, train, 2000, held)
    sizes = [sum(map(len, [text for text in calibrated if (text.split()[1] < "40") == low])) for low in (True, False)]
    assert sizes == [1500, 500], "each as far as its share of the limit goes"
    kinds = [int(piece.split()[1]) >= 40 for piece in reported]
    assert len(set(kinds[:2])) == 2, "any beginning has both"


def test_the_texts_that_move_weights_are_the_ends_of_what_is_held_out(texts: str) -> None:
    held = held_out_part(texts, None)
    mixture = open_mixture(training_part(texts, None), words(), PACKING)
    assert isinstance(mixture, Mixture)
    found = read_domains(held, mixture, words(), "text")
    assert found is not None
    assert [bool((text >= 40).all()) for text in found] == [False, True]
    whole = "".join(read_held_out(read_texts, held))
    ends = "".join(last for _, parts in held_out_parts(read_texts, held) for last in parts)
    assert len(ends) < 0.45 * len(whole)
    assert len(whole) == sum(len(text) for text in read_texts(held))
    assert read_domains(held.partition(",")[0], mixture, words(), "text") is None, "not as many"


def test_a_list_of_texts_has_one_fingerprint_and_a_missing_one_is_named(texts: str) -> None:
    read = partial(fingerprint, texts)
    before = read()
    Path(texts.partition("=")[0]).write_text("1 2 3")
    assert read()["blake2b"] != before["blake2b"]
    with pytest.raises(DataError, match=r"no text file at .*gone\.txt"):
        look_at_text(f"{texts.partition('=')[0]},gone.txt", "text")
