from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from graphprune.errors import UsageError
from graphprune.spec import build, describe_options, parse_value, print_spec, print_value, split_spec


@dataclass(frozen=True)
class Sample:
    """Every type of option that a plug-in may have."""

    name: ClassVar[str] = "sample"
    order: int = 1
    scale: float = 0.5
    exact: bool = False
    aggregate: Literal["vector", "element"] = "vector"
    text: str = ""
    limit: float | None = None
    widths: tuple[int, ...] = ()
    rates: list[float] | None = None


@dataclass(frozen=True)
class Outer:
    name: ClassVar[str] = "outer"
    inner: Any = None


def read(text: str) -> Sample:
    name, options = split_spec(text)
    assert name == "sample"
    return build(Sample, name, options)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sample", Sample()),
        ("sample{}", Sample()),
        (" sample { order = 2 , exact = true } ", Sample(order=2, exact=True)),
        ("sample{scale=2}", Sample(scale=2.0)),
        ("sample{scale=-1e-3}", Sample(scale=-0.001)),
        ("sample{aggregate=element}", Sample(aggregate="element")),
        ("sample{text='a, b=[c]}'}", Sample(text="a, b=[c]}")),
        (r"sample{text='it\'s'}", Sample(text="it's")),
        ("sample{text=6e8}", Sample(text="6e8")),
        ("sample{text=none}", Sample(text="none")),
        ("sample{limit=3}", Sample(limit=3.0)),
        ("sample{limit=none}", Sample()),
        ("sample{widths=[1,2,3]}", Sample(widths=(1, 2, 3))),
        ("sample{widths=[]}", Sample()),
        ("sample{rates=[1,0.5]}", Sample(rates=[1.0, 0.5])),
    ],
)
def test_parses_and_prints_back(text: str, expected: Sample) -> None:
    parsed = read(text)
    assert parsed == expected
    assert read(print_spec(parsed)) == expected


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("sample{scale=2}", "sample{scale=2.0}"),
        ("sample{limit=-3}", "sample{limit=-3.0}"),
        ("sample{rates=[1,2]}", "sample{rates=[1.0,2.0]}"),
        ("sample{order=2}", "sample{order=2}"),
        ("sample{widths=[1,2]}", "sample{widths=[1,2]}"),
    ],
)
def test_a_whole_number_becomes_a_float_where_one_is_wanted_and_there_alone(text: str, printed: str) -> None:
    """Equal numbers of two types print as two specs, and specs are what runs are compared by."""
    assert print_spec(read(text)) == printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample{ordre=2}", "no option 'ordre'; did you mean order?"),
        ("sample{order=1.5}", "order=1.5 is not int"),
        ("sample{order=true}", "order=true is not int"),
        ("sample{exact=1}", "exact=1 is not true or false"),
        ("sample{aggregate=matrix}", "is not vector or element"),
        ("sample{text=[5]}", "is not text"),
        ("sample{widths=[1,a]}", "is not list of int"),
        ("sample{order}", "write option=value"),
        ("sample{order=1,order=2}", "occurs twice"),
        ("sample{widths=[1,2}", "not closed"),
        ("sample{text='a}", "not closed"),
        ("{order=1}", "cannot read"),
        ("sample{order=1", "cannot read"),
    ],
)
def test_a_wrong_spec_is_a_usage_error_that_says_what_to_write(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_choice_may_be_called_none() -> None:
    @dataclass(frozen=True)
    class Choice:
        name: ClassVar[str] = "choice"
        scale: Literal["none", "mean"] = "mean"

    chosen = build(Choice, "choice", {"scale": "none"})
    assert chosen == Choice("none")
    assert build(Choice, *split_spec(print_spec(chosen))) == chosen


def test_a_value_refused_by_the_plugin_itself_is_a_usage_error() -> None:
    @dataclass(frozen=True)
    class Positive:
        order: int = 1

        def __post_init__(self) -> None:
            if self.order < 1:
                raise ValueError("order must be at least 1")

    with pytest.raises(UsageError, match="order must be at least 1; its options are order"):
        build(Positive, "positive", {"order": "0"})


def test_options_are_described_with_types_and_defaults() -> None:
    text = describe_options(Sample)
    assert "aggregate (vector or element, default vector)" in text
    assert "limit (float or none, default none)" in text


def test_an_option_that_is_a_plugin_prints_as_its_spec() -> None:
    assert print_spec(Outer(Sample(order=3))) == "outer{inner=sample{order=3}}"
    assert split_spec("outer{inner=sample{order=3,exact=true}}")[1] == {"inner": "sample{order=3,exact=true}"}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)


@given(values)
@example("\x1f")
@example(("0\x1f", " ", "None", ""))
def test_every_value_reads_back_as_it_was(value: Any) -> None:
    name, options = split_spec(f"sample{{value={print_value(value)}}}")
    assert name == "sample"
    assert parse_value(options["value"]) == value
