"""Amounts: sizes, counts and speeds as people write them (`1B`, `60%`, `500MB`, `2x`), to numbers and back."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

from graphprune.errors import BudgetError, UsageError

_THOUSANDS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_SIZES = {**_THOUSANDS, "t": 10**12, "%": 1}
_LARGE = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_BYTES = {**_LARGE, **{f"{unit}b": scale for unit, scale in _LARGE.items()}, "%": 1}
_TARGET_EXAMPLES = "write it as 1B, 600M, 250k, 6e8, 600000000 or 60%"
_BYTES_EXAMPLES = "write it as 500MB, 1.5GiB, 32KiB or 60%"


class Amount(NamedTuple):
    """A number in ones, or of hundredths where `unit` is %."""

    value: Decimal
    unit: str


def read_amount(text: str, scales: Mapping[str, int]) -> Amount | None:
    """Read a number with one of the units in any case (`1.5b`, `6e8`, `1_000 k`); None where it is none."""
    plain = re.sub(r"(?<=\d)[_,](?=\d)", "", text.strip().lower())
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)(e\+?\d{1,2})?\s*([a-z%]*)", plain)
    if match is None or match[3] not in scales:
        return None
    return Amount(Decimal(match[1] + (match[2] or "")) * scales[match[3]], match[3])


def parse_target(text: str, current: int) -> int:
    """Read a target (`1B`, `1.5b`, `600M`, `250k`, `6e8`, `60%`, `1_000_000`) for a model that now costs `current`.

    A percentage is the share kept. Raises UsageError with examples, and BudgetError for a target above the model.
    """
    amount = read_target(text)
    value = amount.value * current / 100 if amount.unit == "%" else amount.value
    if value < 1:
        raise UsageError(f"the target {text!r} is not a whole positive number; {_TARGET_EXAMPLES}")
    if value > current:
        raise BudgetError(f"the target {text!r} ({int(value):,}) is above the model's {current:,}; lower it")
    return int(value)


def read_target(text: str) -> Amount:
    """Read a target as far as it can be read without the model that it is for. Raises UsageError with examples."""
    amount = read_amount(text, _SIZES)
    if amount is None:
        raise UsageError(f"{text[:60]!r} is not a target; {_TARGET_EXAMPLES}")
    if amount.value <= 0 or (not amount.unit and amount.value != int(amount.value)):
        raise UsageError(f"the target {text!r} is not a whole positive number; {_TARGET_EXAMPLES}")
    if amount.unit == "%" and amount.value > 100:
        raise BudgetError(f"the target {text!r} is above the whole; lower it")
    return amount


def parse_count(value: object) -> int:
    """Read a number of tokens: 2M, 500k, 1e6, 1_000_000. Raises ValueError with examples."""
    amount = read_amount(str(value), _THOUSANDS)
    number = amount.value if amount else Decimal(0)
    if isinstance(value, bool) or number < 1 or number != int(number):
        raise ValueError(f"{value!r} is no number of tokens; write it as 2M, 500k, 1e6 or 1000000")
    return int(number)


def parse_bytes(text: str, current: int, unit: int) -> int:
    """Read `500MB`, `1.5GiB`, `32KiB`, `4096` or a share of what there is, in units of 1/`unit` bytes."""
    amount = read_bytes(text)
    value = amount.value * (Decimal(current) / 100 if amount.unit == "%" else unit)
    if value < 1:
        raise UsageError(f"the target {text!r} is not above zero; {_BYTES_EXAMPLES}")
    return int(value)


def read_bytes(text: str) -> Amount:
    """Read a number of bytes, or a share of what there is. Raises UsageError with examples."""
    amount = read_amount(text, _BYTES)
    if amount is None:
        raise UsageError(f"{text[:60]!r} is no number of bytes; {_BYTES_EXAMPLES}")
    if amount.value <= 0:
        raise UsageError(f"the target {text!r} is not above zero; {_BYTES_EXAMPLES}")
    return amount


def parse_speed(text: str) -> float:
    """Read `2x` or `1.5`: how many times as fast. Raises UsageError."""
    amount = read_amount(text, {"": 1, "x": 1})
    if amount is None or not 1 < amount.value < 1000:
        raise UsageError(f"{text[:60]!r} is no speed-up; write it as 2x or 1.5x")
    return float(amount.value)


def show_bytes(count: float, ones: str = "bytes") -> str:
    """Bytes as people read them, in powers of 1024; `ones` is what less than a KiB is counted in."""
    for unit in (ones, "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:,.0f} {unit}" if unit == ones else f"{count:,.2f} {unit}"


def show_amount(value: float | None, unit: str = "") -> str:
    """A measured quantity as people read it: 1,234,567, 3.21 MiB, 5.678."""
    if value is None:
        return "-"
    if unit == "bytes":
        return show_bytes(value, "B")
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.4g}"
