"""Damage: values, JSON and bytes as no program would write them."""

import copy
import json
import random
from pathlib import Path

Draw = random.Random

DEEP = 3000
NASTY_TEXTS = (
    "", " ", ".", "..", "/", "~", "~nobody/x", "-", "--", "%s%n", "{}", "{{}}", "a" * 5000, "\u202e", "\ud800",
    "\x1b[31m", "null", "nan", "inf", "-1", "0", "1e999", "9" * 400, "١٢", "1_000", "0x10", "[" * DEEP,
    "x{" + "[" * 200, "taylor{order=}", "taylor{order=[}", "../../etc/passwd", "con:aux", "stdlib#train", "a,b,,c",
    "mlp,,auto", "=", "a=b=c", "é", "日本", "\n", "\t;|&",
)  # fmt: skip
NASTY_VALUES = (
    None, True, False, 0, -1, 1, 3, 10**9, 10**30, -(10**30), 0.0, 1e308, float("inf"), float("-inf"), float("nan"),
    "", "x", "a" * 9000, "\ud800", "../x", [], {}, [[]], [None], {"a": {"b": 1}}, ["Llama", 3], "torch.float99",
    [1] * 50, {"": ""},
)  # fmt: skip


def damaged_json(draw: Draw, text: str) -> str:
    """The text of a JSON file with one value, key or stretch of it made into another."""
    way = draw.randrange(8)
    if way == 0:
        return damaged_bytes(draw, text.encode()).decode("utf-8", "surrogateescape")
    if way == 1:
        return "[" * DEEP + "]" * DEEP if draw.random() < 0.5 else '{"a":' * DEEP + "1" + "}" * DEEP
    if way == 2:
        return draw.choice(("", "null", "[]", "3", '"x"', "{", "{}", "NaN", "\ufeff{}", '{"a": 1e999}', "9" * 6000))
    data = json.loads(text)
    for _ in range(draw.choice((1, 1, 2, 5))):
        place, key = random_place(draw, data)
        if way == 3 and isinstance(place, dict):
            place.pop(key, None)
        elif way == 4 and isinstance(place, dict):
            place[draw.choice(("", "x", "a" * 300, "\ud800", "__class__", "0"))] = nasty_value(draw)
        else:
            place[key] = nasty_value(draw)
    return json.dumps(data)


def nasty_value(draw: Draw) -> object:
    """A value of its own: one that is damaged later must not change the others."""
    return copy.deepcopy(draw.choice(NASTY_VALUES))


def random_place(draw: Draw, data: object) -> tuple[object, object]:
    """A container somewhere in a value, and one of its keys."""
    place = data
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return ({"x": 1} if isinstance(place, dict) else [0]), ("x" if isinstance(place, dict) else 0)
        key = draw.choice(keys)
        inner = place[key]
        if not isinstance(inner, (dict, list)) or not inner or draw.random() < 0.3:
            return place, key
        place = inner


def damaged_bytes(draw: Draw, data: bytes) -> bytes:
    """Bytes cut off, changed, put in or doubled."""
    way, at = draw.randrange(6), draw.randrange(max(1, len(data)))
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + bytes(draw.randrange(256) for _ in range(draw.randrange(1, 9))) + data[at + 1 :]
    if way == 2:
        return data[:at] + b"\0" * draw.randrange(1, 300) + data[at:]
    if way == 3:
        return data + data[:at]
    if way == 4:
        return data[:at] + data[at + draw.randrange(1, 40) :]
    changed = bytearray(data)
    for _ in range(min(len(data), 12)):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def write_text(path: Path, text: str) -> None:
    path.write_bytes(
        text.encode("utf-8", "surrogateescape" if "\udc80" <= max(text, default="") <= "\udcff" else "surrogatepass")
    )


def damage_json_file(draw: Draw, path: Path) -> None:
    write_text(path, damaged_json(draw, path.read_text(encoding="utf-8")))


def damage_file(draw: Draw, path: Path) -> None:
    path.write_bytes(damaged_bytes(draw, path.read_bytes()))
