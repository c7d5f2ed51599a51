"""Files of a checkpoint: JSON, and tensors in one file or in shards."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from graphprune.ir.placement import unshared


def write_json(path: Path, data: Mapping[str, object]) -> Path:
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return path


def write_tensors(tensors: Mapping[str, Tensor], folder: Path, shard_bytes: int) -> list[Path]:
    """Write model.safetensors, or numbered shards with their index where it would exceed `shard_bytes`."""
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    plan = split_torch_state_dict_into_shards(dict(tensors), max_shard_size=shard_bytes)
    paths = []
    for filename, names in plan.filename_to_tensors.items():
        save_file(unshared({name: tensors[name].cpu() for name in names}), folder / filename, metadata={"format": "pt"})
        paths.append(folder / filename)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        paths.append(write_json(folder / "model.safetensors.index.json", index))
    return paths
