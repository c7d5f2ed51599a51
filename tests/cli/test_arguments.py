"""Arguments that several commands share: lists separated by commas, whatever stands in braces."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphprune.spec import split_commas


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("", ()),
        (" , ,", ()),
        ("onnx", ("onnx",)),
        (" huggingface ,onnx, ", ("huggingface", "onnx")),
        ("a{b=1,c=2},d", ("a{b=1,c=2}", "d")),
        ("a{b=[1,2],c={d=3,e=4}},f{g=[,]}", ("a{b=[1,2],c={d=3,e=4}}", "f{g=[,]}")),
        ("a[1,2],b,c{d", ("a[1,2]", "b", "c{d")),
    ],
)
def test_a_comma_inside_of_braces_separates_no_items(text: str, items: tuple[str, ...]) -> None:
    assert split_commas(text) == items


words = st.text("abz09_=.:-", min_size=1, max_size=6)
specs = st.recursive(
    words, lambda inner: st.tuples(words, st.lists(inner, max_size=3)).map(lambda s: f"{s[0]}{{{','.join(s[1])}}}")
)


@settings(max_examples=40)
@given(st.lists(specs, max_size=4))
def test_what_was_joined_is_taken_apart_again(items: list[str]) -> None:
    assert split_commas(" , ".join(items)) == tuple(items)
