"""What the commands print: ratios and differences."""

import pytest

from graphprune.cli.show import ratio, small
from graphprune.evaluation.measure import Measure


@pytest.mark.parametrize(("before", "after", "text"), [(4.0, 1.0, "0.250"), (None, 1.0, ""), (0.0, 1.0, "")])
def test_a_ratio_is_of_two_measured_values(before: float | None, after: float, text: str) -> None:
    assert ratio(Measure("file", before, after)) == text


def test_a_difference_is_printed_to_one_digit() -> None:
    assert (small(0.000123), small(None)) == ("1.2e-04", "")
