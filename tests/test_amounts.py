"""Amounts: numbers with units, read and shown. Targets, counts and bytes are tested where they are used."""

from decimal import Decimal

import pytest

from graphprune.amounts import Amount, read_amount, show_amount, show_bytes


def test_a_number_may_have_separators_an_exponent_and_a_unit_in_any_case() -> None:
    scales = {"": 1, "k": 1000}
    assert read_amount(" 1_500.5 K", scales) == Amount(Decimal(1_500_500), "k")
    assert read_amount("2e3", scales) == Amount(Decimal(2000), "")


@pytest.mark.parametrize("text", ["", "k", "1m", "-1", "1 2", "1.2.3", "1e999"])
def test_what_is_no_number_with_a_known_unit_is_none(text: str) -> None:
    assert read_amount(text, {"": 1, "k": 1000}) is None


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "", "-"),
        (1234567, "", "1,234,567"),
        (5.67891, "", "5.679"),
        (45678.9, "", "45,679"),
        (float("inf"), "", "inf"),
        (float("nan"), "", "nan"),
        (100, "bytes", "100 B"),
        (3 << 19, "bytes", "1.50 MiB"),
    ],
)
def test_amounts_are_shown_for_people(value: float | None, unit: str, text: str) -> None:
    assert show_amount(value, unit) == text


def test_bytes_are_shown_in_powers_of_1024() -> None:
    assert [show_bytes(n) for n in (1023, 1 << 10, 3 << 29, 1 << 42)] == [
        "1,023 bytes",
        "1.00 KiB",
        "1.50 GiB",
        "4,096.00 GiB",
    ]
