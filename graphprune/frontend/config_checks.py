"""What is checked of a model's configuration as plain data, before transformers or torch is asked anything."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from graphprune.errors import SourceError
from graphprune.frontend.checks import Entry, read_json
from graphprune.json_data import Json, JsonObject
from graphprune.paths import is_file

# Formats that transformers turns into plain weights, bit for bit, where it has no kernel for them.
EXACT = ("fp8", "mxfp4", "compressed-tensors")
_MOST_LAYERS = 10_000
_LARGEST = (1 << 63) - 1  # the largest size that a tensor may have
_LAYERS = re.compile(r"(?i)(^|_)(layers?|depths?|blocks?)$")
_WIDTHS = re.compile(
    r"(?i)^(vocab_size|hidden_size|intermediate_size|d_model|d_ff|n_embd|n_inner|num_attention_heads)$"
)


def check_config(folder: Path) -> JsonObject:
    """Return the configuration as plain data. Raises SourceError where it is none that could be loaded."""
    path = folder / "config.json"
    if not is_file(path):
        raise SourceError(explain_no_config(folder))
    config = read_json(path)
    if not isinstance(config.get("model_type"), str):
        raise SourceError(f"{path} names no model_type; it is not the configuration of a transformers model")
    check_architectures(path, config)
    check_numbers(path, config)
    check_precision(folder, config)
    return config


def explain_no_config(folder: Path) -> str:
    """Why there is no configuration: the folder may hold an adapter to a model that is elsewhere."""
    path = folder / "adapter_config.json"
    if not is_file(path):
        return f"no config.json in {folder}; pass a model folder as transformers' save_pretrained writes it"
    adapter = read_json(path)
    kind, base = str(adapter.get("peft_type") or "LoRA"), adapter.get("base_model_name_or_path")
    named = "LoRA" if kind.upper() == "LORA" else kind
    return (
        f"{folder} is a {named} adapter of {base or 'another model'}, not a model; merge it first: "
        "AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload().save_pretrained(MERGED), then pass MERGED"
    )


def check_architectures(path: Path, config: JsonObject) -> None:
    """Refuse a list of classes that holds anything but names."""
    names = config.get("architectures")
    if names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        return
    raise SourceError(f'architectures in {path} is no list of names of classes; write it as ["LlamaForCausalLM"]')


def check_numbers(path: Path, config: JsonObject) -> None:
    """Refuse numbers that no model has: infinite ones, sizes above what a tensor may have, layers without end."""
    for name, value in numbers(config):
        if isinstance(value, float) and not math.isfinite(value):
            raise SourceError(f"{name} in {path} is {value}, which is no number; mend it")
        if abs(value) > _LARGEST and isinstance(value, int):
            raise SourceError(f"{name} in {path} is {shown(value)}, and nothing is so large; mend it")
        if _LAYERS.search(name) and value > _MOST_LAYERS:
            raise SourceError(f"{name} in {path} is {value:,}, and no model has so many; mend it")


def shown(value: int) -> str:
    """A number of which the length says enough."""
    return f"{value:.2e}" if abs(value) < 1 << 1000 else f"a number of {value.bit_length():,} bits"


def numbers(config: JsonObject, before: str = "") -> Iterator[tuple[str, int | float]]:
    """Every number of a configuration by its dotted name; those in lists, which may well be infinite, are left out."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{before}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{before}{name}", value


def check_widths(folder: Path, config: JsonObject, entries: Mapping[str, Entry]) -> None:
    """Refuse a width above all the numbers that the weights hold: loading would make tensors of it first."""
    held = sum(math.prod(entry.shape) * (8 if is_packed(entry) else 1) for entry in entries.values())
    for name, value in config.items():
        if _WIDTHS.match(name) and isinstance(value, int) and value > max(held, 1):
            raise SourceError(f"{name} in {folder / 'config.json'} is {value:,}, and its weights hold {held:,} numbers")


def is_packed(entry: Entry) -> bool:
    return entry.dtype.startswith(("I", "U"))


def check_precision(folder: Path, config: JsonObject) -> None:
    """Refuse weights that are quantised to what cannot be turned back exactly."""
    method = quantisation(config)
    if method is not None and method not in EXACT:
        raise SourceError(
            f"the weights of {folder} are quantised ({method}); pass the full-precision checkpoint that they were "
            "made of"
        )


def quantisation(config: Mapping[str, Json]) -> str | None:
    """How the weights are quantised, as the configuration says it, or that of the text model in it; None if not."""
    for place in (config, config.get("text_config")):
        found = place.get("quantization_config") if isinstance(place, Mapping) else None
        if found:
            method = found.get("quant_method") if isinstance(found, dict) else None
            bits = [f"{n}bit" for n in ("8", "4") if isinstance(found, dict) and found.get(f"load_in_{n}bit")]
            return str(method or (bits or ["an unnamed method"])[0])
    return None
