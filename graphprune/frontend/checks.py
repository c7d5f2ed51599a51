"""What is checked of a source's weights before and after they are loaded; every fault is one SourceError.

Nothing here needs torch but what looks at tensors, so that a mistake is told at once.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from graphprune.errors import SourceError
from graphprune.json_data import Json, JsonObject, parse_json, read_object
from graphprune.paths import is_file, stays_inside

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model.safetensors.index.json"
PICKLES = ("*model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32} | {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4}  # fmt: skip
_HASHED = re.compile(r"(?i).*\.(json|safetensors|model|txt|jinja|py|md|tiktoken)|licen[cs]e.*|notice.*")
_PART = 1 << 24  # elements that are looked at at a time
_SHOWN, _NAMED = 3, 20
_FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
# What a wrapper puts before the name of every tensor, and how the model within it is reached.
WRAPPERS = {"module.": "model.module", "_orig_mod.": "model._orig_mod", "_fsdp_wrapped_module.": "the model itself"}


class Entry(NamedTuple):
    """What a header says of a tensor."""

    dtype: str
    shape: tuple[int, ...]
    end: int
    bytes: int


class Weights(NamedTuple):
    """The weight files of a folder, and what their headers say of the tensors."""

    files: tuple[Path, ...]
    entries: Mapping[str, Entry]

    def stored_type(self) -> str | None:
        """The type that most bytes are stored in, as torch calls it; None where it is none to compute in."""
        sizes: dict[str, int] = {}
        for entry in self.entries.values():
            if entry.dtype.startswith(("F", "BF")):
                sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.bytes
        return _FLOATS.get(max(sizes, key=lambda name: sizes[name])) if sizes else None


def check_folder(folder: Path) -> None:
    """Say what is wrong where a path is no model folder at all."""
    if folder.is_file():
        raise SourceError(f"{folder} is a file; pass the folder with config.json and model.safetensors")
    if not folder.is_dir():
        raise SourceError(f"no model folder at {folder}; pass a folder with config.json and model.safetensors")
    for path in (folder / "config.json", *sorted(folder.glob("*.safetensors")), folder / INDEX):
        if not stays_inside(path, folder):
            raise SourceError(f"{path} is a link to a place outside the folder, which is not read; copy the file there")


def check_no_extras(folder: Path, config: Mapping[str, Json]) -> None:
    """Raise SourceError for what transformers would take along unasked: kernels of the hub, and adapters.

    A kernel is code, fetched where the configuration names its repository; an adapter may be a pickle, and changes what
    the model computes.
    """
    kernel = next(kernels_named(config), None)
    if kernel is not None:
        raise SourceError(f"config.json of {folder} names code of the hub ({kernel[:80]}); take it out of the file")
    if (folder / "adapter_config.json").exists():
        raise SourceError(f"{folder} has an adapter beside the model; merge it, or take adapter_config.json away")


def kernels_named(value: object, name: str = "") -> Iterator[str]:
    """What a configuration, or one within it, would have fetched for its attention or its experts."""
    if name in ("kernel_config", "use_kernels"):
        yield from [f"{name}: {value}"] if value else ()
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from kernels_named(inner, name if name.endswith("_implementation") else str(key))
    elif name.endswith("_implementation") and isinstance(value, str) and re.search(r"[/:|@]", value):
        yield value


def read_json(path: Path) -> JsonObject:
    """The object in a file of a model. Raises SourceError."""
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error


def check_weights(folder: Path) -> Weights:
    """Return the weight files, each seen to be whole: headers agree with file sizes, an index with its shards."""
    weights = find_weights(folder)
    check_prefix(folder, weights.entries)
    return weights


def check_prefix(folder: Path, names: Iterable[str]) -> None:
    """Refuse tensors that a wrapper has named."""
    names = list(names)
    for prefix, inner in WRAPPERS.items():
        if names and all(name.startswith(prefix) for name in names):
            raise SourceError(
                f"every tensor in {folder} is named with {prefix!r}, which a wrapper puts before the model's own names;"
                f" save what is within it: {inner}.save_pretrained(FOLDER)"
            )


def find_weights(folder: Path) -> Weights:
    index = folder / INDEX
    if index.is_file():
        return check_shards(folder, index)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise SourceError(explain_no_weights(folder))
    single = folder / "model.safetensors"
    if single not in files:
        raise SourceError(f"{folder} has {files[0].name} but neither model.safetensors nor {INDEX}; rename or index it")
    return Weights((single,), read_header(single))


def check_modules(folder: Path) -> None:
    """Refuse modules of sentence-transformers beside the model whose weights are a pickle: they are not copied."""
    path = folder / "modules.json"
    if not path.is_file():
        return
    try:
        modules: Any = parse_json(path.read_bytes())
        places = [str(module.get("path") or ".") for module in modules]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SourceError(f"{path} cannot be read as a list of modules: {error}") from error
    for part in (folder / place for place in places if place != "." and stays_inside(folder / place, folder)):
        pickles = [path for pattern in PICKLES for path in sorted(part.glob(pattern))]
        if pickles and not any(part.glob("*.safetensors")):
            remedy = "save the model again with sentence-transformers, which writes safetensors"
            raise SourceError(f"{pickles[0]} is a pickle, which runs code when it is read, and is refused; {remedy}")


def explain_no_weights(folder: Path) -> str:
    pickles = sorted(
        path.name for pattern in PICKLES for path in folder.glob(pattern) if path.name != "training_args.bin"
    )
    if not pickles:
        return f"no weights in {folder}; expected model.safetensors, or {INDEX} with its shards"
    remedy = "convert it with a tool you trust: load it, then save_pretrained(folder) writes safetensors"
    return f"{folder / pickles[0]} is a pickle, which can run any code when it is read, and is refused; {remedy}"


def check_shards(folder: Path, index: Path) -> Weights:
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise SourceError(f"{index} has no weight_map; download it again")
    shards = {name: folder / name for name in sorted(set(map(str, table.values())))}
    missing = [name for name, path in shards.items() if path.parent != folder or not is_file(path)]
    if missing:
        raise SourceError(f"{len(missing)} of {len(shards)} shards are missing in {folder}: {shorten(missing)}")
    headers = {name: read_header(path) for name, path in shards.items()}
    absent = [tensor for tensor, shard in table.items() if tensor not in headers[str(shard)]]
    if absent:
        raise SourceError(f"{index} names tensors that its shards do not hold: {shorten(absent)}; download it again")
    return Weights(tuple(shards.values()), {name: e for header in headers.values() for name, e in header.items()})


def read_header(path: Path) -> dict[str, Entry]:
    """Return the header of a safetensors file, having checked it against the file's size, without reading a tensor."""
    try:
        size, file = path.stat().st_size, path.open("rb")
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    with file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise SourceError(f"{path} is truncated or not safetensors ({size:,} bytes); download it again")
        try:
            header = parse_json(file.read(length))
            if not isinstance(header, dict):
                raise TypeError("it is no JSON object")
            found = {name: check_entry(path, name, e) for name, e in header.items() if name != "__metadata__"}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SourceError(f"{path} has a header that is not safetensors: {error}; download it again") from error
    end = max((entry.end for entry in found.values()), default=0)
    if 8 + length + end != size:
        raise SourceError(f"{path} is truncated: it holds {size:,} of {8 + length + end:,} bytes; download it again")
    return found


def check_entry(path: Path, name: str, entry: Json) -> Entry:
    """Return what a header says of a tensor, having checked that its bytes fit its shape."""
    if not isinstance(entry, dict):
        raise TypeError(f"{name} is no object")
    dtype, shape = str(entry["dtype"]), whole_numbers(entry["shape"])
    begin, end = whole_numbers(entry["data_offsets"])
    expected = math.prod(shape) * BITS[dtype] // 8 if dtype in BITS else end - begin
    if not 0 <= begin <= end or end - begin != expected or min(shape, default=0) < 0:
        raise SourceError(f"{path} is corrupt: {name} has {end - begin} bytes where its shape needs {expected}")
    return Entry(dtype, shape, end, end - begin)


def whole_numbers(value: Json) -> tuple[int, ...]:
    """The integers of a list. Raises TypeError."""
    if not isinstance(value, list) or not all(type(each) is int for each in value):
        raise TypeError(f"{str(value)[:40]} is no list of whole numbers")
    return tuple(each for each in value if isinstance(each, int))


def check_keys(name: str, architecture: str, info: Mapping[str, Iterable[Any]]) -> tuple[str, ...]:
    """Refuse a checkpoint that lacks tensors of its model, as transformers reported on loading.

    Returns the names of those that the model's class does not read, such as another head's.
    """
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if prefix := wrapped_by(missing, unexpected):
        raise SourceError(
            f"the checkpoint {name} holds {prefix}{missing[0]} where {architecture} has {missing[0]}: a wrapper has "
            f"put {prefix!r} before every name; save the model within it, or rename the tensors"
        )
    mismatched = [f"{n} is {list(found)}, needed {list(wanted)}" for n, found, wanted in info["mismatched_keys"]]
    faults = {
        "lacks tensors that {} needs": missing,
        "holds tensors that do not fit {}": sorted(mismatched),
        "cannot be loaded as {}": sorted(map(str, info.get("error_msgs", ()))),
    }
    for fault, tensors in faults.items():
        if tensors:
            raise SourceError(f"the checkpoint {name} {fault.format(architecture)}: {shorten(tensors)}")
    return tuple(unexpected)


def describe_unread(architecture: str, tensors: Sequence[str]) -> str:
    """What the user should know of tensors that the model's class does not read."""
    plural = "s" if len(tensors) > 1 else ""
    names = shorten(list(tensors), _NAMED)
    return f"{len(tensors)} tensor{plural} of the checkpoint that {architecture} does not read: {names}"


def wrapped_by(missing: list[str], unexpected: list[str]) -> str:
    """What stands before the names of all tensors that are there in place of those that lack; empty for nothing."""
    there = set(unexpected)
    ends = (name.removesuffix(missing[0]) for name in unexpected if missing and name.endswith(f".{missing[0]}"))
    return next((prefix for prefix in ends if all(prefix + name in there for name in missing)), "")


def check_finite(name: str, tensors: Iterable[tuple[str, "Tensor"]]) -> None:
    """Refuse weights that hold NaN or infinity, naming the first such tensor."""
    import torch

    for key, tensor in tensors:
        if not tensor.is_floating_point() or tensor.is_meta:
            continue
        parts = torch.split(tensor.detach().flatten(), _PART) if tensor.is_contiguous() else (tensor.detach(),)
        bad = sum(int((~torch.isfinite(part)).sum()) for part in parts if not is_finite(part))
        if bad:
            raise SourceError(f"the weight {key} of {name} holds {bad:,} NaN or infinite values")


def is_finite(part: "Tensor") -> bool:
    """Whether all values are finite: the least and the largest say it, in a twentieth of the time of `isfinite`."""
    import torch

    if part.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64) or not part.numel():
        return bool(torch.isfinite(part).all())
    return all(math.isfinite(float(end)) for end in torch.aminmax(part))


def hash_files(folder: Path, weights: bool) -> dict[str, str]:
    """The SHA-256 of every file of the model, by name: configuration, tokenizer, licence and, where read, weights."""
    files = sorted(path for path in folder.iterdir() if is_own(path) and _HASHED.fullmatch(path.name))
    return {path.name: hash_file(path) for path in files if weights or path.suffix != ".safetensors"}


def is_own(path: Path) -> bool:
    return path.is_file() and stays_inside(path, path.parent)


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shorten(items: list[str], shown: int = _SHOWN) -> str:
    """The first few items, and how many more there are."""
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(items[:shown]) + more
