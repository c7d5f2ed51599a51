"""Own text as a source: what it is named by, its options, and what is refused."""

import pytest

from graphprune.data.sources import is_own, look_at_text
from graphprune.errors import DataError, UsageError
from graphprune.pipeline.own_text import OwnText, own_text


@pytest.mark.parametrize("spec", ["self", " self ", "self{tokens=2M}", "self{tokens=2M,top_p=0.9}"])
def test_the_model_itself_is_a_source(spec: str) -> None:
    found = own_text(spec)
    assert found is not None
    assert own_text(str(found)) == found


@pytest.mark.parametrize("spec", ["selfish", "./self", "self.txt", "stdlib", "self-made/data", "", "a,self"])
def test_other_names_are_other_sources(spec: str) -> None:
    assert not is_own(spec)
    assert own_text(spec) is None


def test_options_are_numbers_as_people_write_them() -> None:
    found = own_text("self{tokens=2M,length=512,temperature=0.7,top_k=50,top_p=0.9,seed=3}")
    assert found == OwnText("2M", 512, 0.7, 50, 0.9, 3)
    assert found.count == 2_000_000
    assert (found.sampling.temperature, found.sampling.top_k, found.sampling.top_p) == (0.7, 50, 0.9)
    assert own_text("self{tokens=1000}") == OwnText("1000")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("self{tokens=none}", "no number of tokens"),
        ("self{tokens=0}", "no number of tokens"),
        ("self{tokns=5}", "did you mean tokens"),
        ("self{temperature=0}", "a temperature above 0"),
        ("self{length=1}", "2 tokens or more"),
        ("self{seed=-1}", "a seed from 0 on"),
        ("self{top_p=0}", "top-p"),
        ("self{top_k=-1}", "top-k"),
        ("self{tokens", "cannot read"),
        ("self#train", "cannot read"),
    ],
)
def test_wrong_options_are_named(spec: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        own_text(spec)


@pytest.mark.parametrize("spec", ["self", "self{tokens=5}", "self,stdlib"])
def test_where_no_model_writes_no_hub_is_asked_for_it(spec: str) -> None:
    with pytest.raises(DataError, match="stands alone in --data of compile and sweep"):
        look_at_text(spec, "text")
