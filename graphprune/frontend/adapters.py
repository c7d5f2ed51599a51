"""LoRA adapters as PEFT writes them: what a folder's configuration says, and what of it can be merged exactly."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from graphprune.errors import SourceError
from graphprune.frontend.checks import PICKLES, check_folder, read_header, read_json
from graphprune.frontend.config_checks import explain_no_config
from graphprune.json_data import Json, JsonObject
from graphprune.paths import is_file, stays_inside

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PLAIN = re.compile(r"[\w.]{1,300}")  # a name, where PEFT would also take a regular expression
# How a fine-tuning may begin without changing the weights that it is added to.
_BEGINNINGS = ("gaussian", "eva", "orthogonal")
# What makes more of an adapter than W + scale B A, or adds to what is no weight of a module.
_MORE = {
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "velora_config",
}


class Adapter(NamedTuple):
    """A LoRA adapter: its folder, the model that it is of, and what its products are scaled by.

    `alphas` are numerators of their own that modules have, by name; `stamps` say that the folder is still the same.
    """

    folder: Path
    base: str
    alpha: float
    rank_stabilised: bool
    alphas: tuple[tuple[str, float], ...]
    stamps: tuple[tuple[int, int], ...]

    def scale(self, module: str, rank: int) -> float:
        """What B A of a module is multiplied by: alpha / r, or alpha / sqrt(r) (rsLoRA, Kalajdzievski, 2023)."""
        own = (alpha for name, alpha in self.alphas if module == name or module.endswith(f".{name}"))
        return next(own, self.alpha) / (math.sqrt(rank) if self.rank_stabilised else rank)


def adapter_in(folder: Path) -> Adapter | None:
    """The adapter that a folder holds in place of a model; None where it holds none, or a model besides.

    Raises SourceError for one that cannot be merged, with the reason and the remedy.
    """
    if not is_file(folder / CONFIG) or is_file(folder / "config.json"):
        return None
    check_folder(folder)
    config = read_json(folder / CONFIG)
    if str(config.get("peft_type")).upper() != "LORA":
        raise SourceError(explain_no_config(folder))
    more = next(features(config), None)
    if more is not None:
        raise cannot(folder, f"it has {more}, which is more than W + scale B A")
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base.strip():
        raise SourceError(f"{folder / CONFIG} names no base_model_name_or_path; write there which model it is of")
    check_files(folder)
    alphas = tuple(read_patterns(folder, config.get("alpha_pattern")))
    alpha = number(folder, "lora_alpha", config.get("lora_alpha", 8))
    stats = [(folder / name).stat() for name in (CONFIG, WEIGHTS)]
    stamps = tuple((stat.st_size, stat.st_mtime_ns) for stat in stats)
    return Adapter(folder, base, alpha, bool(config.get("use_rslora")), alphas, stamps)


def cannot(folder: Path, why: str) -> SourceError:
    return SourceError(
        f"the adapter {folder} cannot be merged here: {why}; merge it where it was trained "
        "(merge_and_unload, then save_pretrained) and pass the result"
    )


def features(config: Mapping[str, Json]) -> Iterator[str]:
    """What the configuration asks for beside plain LoRA."""
    begun = config.get("init_lora_weights", True)
    named = [key for key in config if key in _MORE or (key.startswith("use_") and key != "use_rslora")]
    found = [key for key in named if config[key]]
    if isinstance(begun, str) and not begun.lower().startswith(_BEGINNINGS):
        found.append(f"weights that began as {begun[:40]}, which changes the model's own,")
    yield from found


def read_patterns(folder: Path, patterns: Json) -> list[tuple[str, float]]:
    """The alphas of single modules, by the end of their names. Raises SourceError for a regular expression."""
    if patterns is not None and not isinstance(patterns, dict):
        raise cannot(folder, "its alpha_pattern is no object")
    rows: JsonObject = patterns or {}
    odd = next((name for name in rows if not _PLAIN.fullmatch(name)), None)
    if odd is not None:
        raise cannot(folder, f"its alpha_pattern has the expression {odd[:60]!r} where plain names are read")
    return [(name, number(folder, f"alpha_pattern of {name}", value)) for name, value in rows.items()]


def number(folder: Path, name: str, value: Json) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise SourceError(f"{name} in {folder / CONFIG} is {str(value)[:40]!r} and no number; mend it")
    return float(value)


def check_files(folder: Path) -> None:
    """Raise SourceError where the weights of an adapter are not there as safetensors, or damaged, or elsewhere."""
    if not is_file(folder / WEIGHTS):
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        named = f"{folder / pickles[0]} is a pickle, which is refused" if pickles else f"no {WEIGHTS} in {folder}"
        raise SourceError(f"{named}; save the adapter again with PEFT, which writes {WEIGHTS}")
    for name in (CONFIG, WEIGHTS):
        if not stays_inside(folder / name, folder):
            raise SourceError(f"{folder / name} is a link to a place outside the folder, which is not read")
    read_header(folder / WEIGHTS)
