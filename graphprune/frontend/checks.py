"""What is checked of a source before and after it is loaded; every fault is one SourceError with its remedy."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphprune.errors import SourceError
from graphprune.links import stays_inside

INDEX = "model.safetensors.index.json"
PICKLES = ("*model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32} | {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4}  # fmt: skip
_HASHED = re.compile(r"(?i).*\.(json|safetensors|model|txt|jinja|py|md|tiktoken)|licen[cs]e.*|notice.*")
_SHOWN, _NAMED = 3, 20


def check_folder(folder: Path) -> None:
    """Say what is wrong where a path is no model folder at all."""
    if folder.is_file():
        raise SourceError(f"{folder} is a file; pass the folder with config.json and model.safetensors")
    if not folder.is_dir():
        raise SourceError(f"no model folder at {folder}; pass a folder with config.json and model.safetensors")
    for path in (folder / "config.json", *sorted(folder.glob("*.safetensors")), folder / INDEX):
        if not stays_inside(path, folder):
            raise SourceError(f"{path} is a link to a place outside the folder, which is not read; copy the file there")


def check_config(folder: Path) -> Mapping[str, Any]:
    """Return the configuration as plain data. Raises SourceError where it is missing or says no model type."""
    path = folder / "config.json"
    if not path.is_file():
        raise SourceError(f"no config.json in {folder}; pass a model folder as transformers' save_pretrained writes it")
    config = read_json(path)
    if not isinstance(config.get("model_type"), str):
        raise SourceError(f"{path} names no model_type; it is not the configuration of a transformers model")
    return config


def check_no_extras(folder: Path, config: Mapping[str, Any]) -> None:
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


def read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise SourceError(f"{path} holds a {type(data).__name__} where a JSON object is expected")
    return data


def check_weights(folder: Path) -> tuple[Path, ...]:
    """Return the weight files, each seen to be whole: headers agree with file sizes, an index with its shards."""
    index = folder / INDEX
    if index.is_file():
        return check_shards(folder, index)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise SourceError(explain_no_weights(folder))
    single = folder / "model.safetensors"
    if single not in files:
        raise SourceError(f"{folder} has {files[0].name} but neither model.safetensors nor {INDEX}; rename or index it")
    read_header(single)
    return (single,)


def check_modules(folder: Path) -> None:
    """Refuse modules of sentence-transformers beside the model whose weights are a pickle: they are not copied."""
    path = folder / "modules.json"
    if not path.is_file():
        return
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
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


def check_shards(folder: Path, index: Path) -> tuple[Path, ...]:
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise SourceError(f"{index} has no weight_map; download it again")
    shards = {name: folder / name for name in sorted(set(map(str, table.values())))}
    missing = [name for name, path in shards.items() if path.parent != folder or not path.is_file()]
    if missing:
        raise SourceError(f"{len(missing)} of {len(shards)} shards are missing in {folder}: {shorten(missing)}")
    headers = {name: read_header(path) for name, path in shards.items()}
    absent = [tensor for tensor, shard in table.items() if tensor not in headers[shard]]
    if absent:
        raise SourceError(f"{index} names tensors that its shards do not hold: {shorten(absent)}; download it again")
    return tuple(shards.values())


def read_header(path: Path) -> dict[str, Any]:
    """Return the header of a safetensors file, having checked it against the file's size, without reading a tensor."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise SourceError(f"{path} is truncated or not safetensors ({size:,} bytes); download it again")
        try:
            header = json.loads(file.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = max((check_entry(path, name, entry) for name, entry in entries.items()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SourceError(f"{path} has a header that is not safetensors: {error}; download it again") from error
    if 8 + length + end != size:
        raise SourceError(f"{path} is truncated: it holds {size:,} of {8 + length + end:,} bytes; download it again")
    return entries


def check_entry(path: Path, name: str, entry: Mapping[str, Any]) -> int:
    """Return where a tensor's data ends, having checked that its bytes fit its shape."""
    begin, end = entry["data_offsets"]
    expected = math.prod(entry["shape"]) * BITS[entry["dtype"]] // 8 if entry["dtype"] in BITS else end - begin
    if not 0 <= begin <= end or end - begin != expected:
        raise SourceError(f"{path} is corrupt: {name} has {end - begin} bytes where its shape needs {expected}")
    return int(end)


def check_keys(name: str, architecture: str, info: Mapping[str, Iterable[Any]]) -> tuple[str, ...]:
    """Refuse a checkpoint that lacks tensors of its model, as transformers reported on loading.

    Returns the names of those that the model's class does not read, such as another head's.
    """
    mismatched = [f"{n} is {list(found)}, needed {list(wanted)}" for n, found, wanted in info["mismatched_keys"]]
    faults = {
        "lacks tensors that {} needs": sorted(info["missing_keys"]),
        "holds tensors that do not fit {}": sorted(mismatched),
        "cannot be loaded as {}": sorted(map(str, info.get("error_msgs", ()))),
    }
    for fault, tensors in faults.items():
        if tensors:
            raise SourceError(f"the checkpoint {name} {fault.format(architecture)}: {shorten(tensors)}")
    return tuple(sorted(info["unexpected_keys"]))


def describe_unread(architecture: str, tensors: Sequence[str]) -> str:
    """What the user should know of tensors that the model's class does not read."""
    plural = "s" if len(tensors) > 1 else ""
    names = shorten(list(tensors), _NAMED)
    return f"{len(tensors)} tensor{plural} of the checkpoint that {architecture} does not read: {names}"


def check_finite(name: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse weights that hold NaN or infinity, naming the first such tensor."""
    for key, tensor in tensors:
        if tensor.is_floating_point() and not tensor.is_meta and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise SourceError(f"the weight {key} of {name} holds {bad:,} NaN or infinite values")


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
