"""JSON data as types: what a file holds that was read, or that is to be written."""

import json
from pathlib import Path
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
JsonObject: TypeAlias = dict[str, Json]

_DEEPEST = 100  # of ours and of transformers' files none is nested so deeply; what walks them calls itself for a level
_LARGEST = 1 << 28  # bytes of a file that is read whole


def parse_json(text: str | bytes) -> Json:
    """The value of a text. Raises ValueError where it is no JSON, or nested so deeply that nothing could walk it."""
    try:
        value: Json = json.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested more than {_DEEPEST} levels deep") from None
    require_shallow(value)
    return value


def require_shallow(value: object) -> None:
    """Raise ValueError where lists and objects are nested too deeply."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [inner for each in level for inner in items(each)]
        if not level:
            return
    raise ValueError(f"it is nested more than {_DEEPEST} levels deep")


def items(value: object) -> list[object]:
    """What a list or an object holds that may itself hold something."""
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for each in held if isinstance(each, (dict, list))]


def read_object(path: Path) -> JsonObject:
    """The object that a file holds. Raises OSError, and ValueError that says what is wrong with it."""
    if (size := path.stat().st_size) > _LARGEST:
        raise ValueError(f"it has {size:,} bytes, and no such file is so long")
    data = parse_json(path.read_bytes())
    if not isinstance(data, dict):
        raise ValueError(f"it holds a {type(data).__name__} where a JSON object is expected")
    return data
