"""Domains: several texts in one name, their weights, their held-out parts."""

from pathlib import Path

import pytest

from graphprune.data.stream.domains import Domain, beginning_and_end, each_domain, interleaved, split_domains
from graphprune.errors import UsageError


def test_texts_with_commas_between_them_are_domains_with_weights() -> None:
    assert split_domains("a.txt") == (Domain("a.txt", 1.0),)
    assert split_domains("a.txt=3") == (Domain("a.txt=3", 1.0),), "one text has no weight"
    assert split_domains("a.txt, org/b:en:train") == (Domain("a.txt", 0.5), Domain("org/b:en:train", 0.5))
    assert split_domains("a.txt#train=3,b=c.txt=1") == (Domain("a.txt#train", 0.75), Domain("b=c.txt", 0.25))


def test_a_file_whose_name_has_a_comma_is_one_text(tmp_path: Path) -> None:
    path = tmp_path / "a,b.txt"
    path.write_text("one")
    assert split_domains(str(path)) == (Domain(str(path), 1.0),)
    assert split_domains(f"{path}#train") == (Domain(f"{path}#train", 1.0),)
    (tmp_path / "c.txt").write_text("two")
    assert len(split_domains(f"{tmp_path}/c.txt#train,d.txt#train")) == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("a.txt,,b.txt", "has a text without a name"),
        ("a.txt,", "has a text without a name"),
        ("a.txt,b.txt,a.txt", "names a.txt twice"),
        ("a.txt=1,b.txt", "weighs some texts and others not"),
        ("a.txt=0,b.txt=1", "a text weighs more than 0"),
        ("a.txt=nan,b.txt=1", "a text weighs more than 0"),
    ],
)
def test_what_is_wrong_with_a_list_of_texts_is_said(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        split_domains(spec)


def test_a_change_of_names_keeps_the_weights() -> None:
    def train(name: str) -> str:
        return f"{name}#train"

    assert each_domain("a.txt", train) == "a.txt#train"
    assert each_domain("a.txt,b.txt", train) == "a.txt#train,b.txt#train"
    assert split_domains(each_domain("a=3,b=1", train)) == (Domain("a#train", 0.75), Domain("b#train", 0.25))


def test_any_beginning_of_interleaved_texts_has_something_of_each() -> None:
    mixed = interleaved([["ä" * 10_000], ["b" * 3000, "c" * 9000], []])
    assert [piece[0] for piece in mixed[:6]] == ["ä", "b", "ä", "c", "ä", "c"]
    assert all(len(piece.encode()) <= 4096 for piece in mixed)
    assert sum(piece.count("ä") for piece in mixed) == 10_000
    assert "".join(piece for piece in mixed if piece[0] == "c") == "c" * 9000


def test_the_end_of_a_held_out_text_is_no_part_of_its_beginning() -> None:
    first, last = beginning_and_end(["a" * 50, "b" * 50])
    assert (first, last) == (["a" * 50, "b" * 10], ["b" * 40])
    assert beginning_and_end([]) == ([], [])
