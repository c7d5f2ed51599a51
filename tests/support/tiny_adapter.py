"""A LoRA adapter as PEFT writes it: a configuration, and factors of a few modules."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

CONFIG = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "bias": "none", "use_rslora": False}
PREFIX = "base_model.model."


def write_adapter(folder: Path, base: str, tensors: dict[str, torch.Tensor], **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIG, "base_model_name_or_path": base, **changes}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(
        {PREFIX + name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )
    return folder


def factors(module: str, out: int, inner: int, rank: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """A (r, in) and B (out, r) of a module, B not at zero, as after training."""
    draw = torch.Generator().manual_seed(seed)
    return {
        f"{module}.lora_A.weight": torch.randn(rank, inner, generator=draw),
        f"{module}.lora_B.weight": torch.randn(out, rank, generator=draw),
    }
