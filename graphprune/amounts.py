"""Amounts: sizes, counts and speeds as people write them (`1B`, `60%`, `500MB`, `2x`), to numbers."""

import re
from decimal import Decimal

from graphprune.errors import BudgetError, UsageError

_SCALES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_EXAMPLES = "write it as 1B, 600M, 250k, 6e8, 600000000 or 60%"


def parse_target(text: str, current: int) -> int:
    """Read a target (`1B`, `1.5b`, `600M`, `250k`, `6e8`, `60%`, `1_000_000`) for a model that now costs `current`.

    A percentage is the share kept. Raises UsageError with examples, and BudgetError for a target above the model.
    """
    plain = re.sub(r"(?<=\d)[_,](?=\d)", "", text.strip().lower())
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)(e\+?\d{1,2})?\s*([%kmbt]?)", plain)
    if match is None:
        raise UsageError(f"{text!r} is not a target; {_EXAMPLES}")
    number, unit = Decimal(match[1] + (match[2] or "")), match[3].upper()
    value = number * current / 100 if unit == "%" else number * _SCALES[unit]
    if value < 1 or (not unit and value != int(value)):
        raise UsageError(f"the target {text!r} is not a whole positive number; {_EXAMPLES}")
    if value > current:
        raise BudgetError(f"the target {text!r} ({int(value):,}) is above the model's {current:,}; lower it")
    return int(value)


_TOKENS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


def parse_count(value: object) -> int:
    """Read a number of tokens: 2M, 500k, 1e6, 1_000_000. Raises ValueError with examples."""
    plain = re.sub(r"(?<=\d)[_,](?=\d)", "", str(value).strip().lower())
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)(e\+?\d{1,2})?\s*([kmb]?)", plain)
    number = Decimal(match[1] + (match[2] or "")) * _TOKENS[match[3]] if match else Decimal(0)
    if isinstance(value, bool) or number < 1 or number != int(number):
        raise ValueError(f"{value!r} is no number of tokens; write it as 2M, 500k, 1e6 or 1000000")
    return int(number)


_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_SIZES = "write it as 500MB, 1.5GiB, 32KiB or 60%"


def parse_bytes(text: str, current: int, unit: int) -> int:
    """Read `500MB`, `1.5GiB`, `32KiB`, `4096` or a share of what there is, in units of 1/`unit` bytes."""
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*(?:(%)|([kmg]i?)?b?)", text.strip().lower().replace("_", ""))
    if match is None:
        raise UsageError(f"{text!r} is no number of bytes; {_SIZES}")
    value = Decimal(match[1]) * (Decimal(current) / 100 if match[2] else _BYTES[match[3] or ""] * unit)
    if value < 1:
        raise UsageError(f"the target {text!r} is not above zero; {_SIZES}")
    return int(value)


def parse_speed(text: str) -> float:
    """Read `2x` or `1.5`: how many times as fast. Raises UsageError."""
    try:
        times = float(text.strip().lower().removesuffix("x"))
    except ValueError:
        times = 0.0
    if not 1 < times < 1000:
        raise UsageError(f"{text!r} is no speed-up; write it as 2x or 1.5x")
    return times
