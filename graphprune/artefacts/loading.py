"""Loading: an artefact as a user would load it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphprune.errors import ParityError
from graphprune.generic import CODE, MODELING
from graphprune.ir.contract import DERIVED
from graphprune.running.open_model import OpenModel
from graphprune.running.runners import Runner

DECODERS = ("decoder", DERIVED)


def load_checkpoint(out: Path, kind: str, dtype: torch.dtype) -> Any:
    """Load with the class that config.json names; remote code only where it is graphprune's own file, unchanged."""
    import transformers

    trusted = is_own_code(out)
    loader: Any = transformers.AutoModelForCausalLM
    if kind not in DECODERS or (kind == DERIVED and not trusted):  # no mapping has all that generate text
        names = json.loads((out / "config.json").read_text(encoding="utf-8")).get("architectures") or [""]
        loader = getattr(transformers, names[0], transformers.AutoModel)
    return loader.from_pretrained(out, trust_remote_code=trusted, use_safetensors=True, dtype=dtype).eval()


def is_own_code(out: Path) -> bool:
    """Say whether the checkpoint brings the generic class. Raises ParityError where it brings any other code."""
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    if "auto_map" not in config:
        return False
    ours = all(str(target).startswith(f"{MODELING}.") for target in config["auto_map"].values())
    if not ours or not all((out / code.name).is_file() for code in CODE):
        raise ParityError(f"{out} needs code that graphprune did not write; it is not run")
    for code in CODE:
        if digest(out / code.name) != digest(code):
            raise ParityError(f"{out / code.name} differs from the file that this graphprune writes; it is not run")
    return True


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def onnx_runner(model: OpenModel) -> Runner:
    def run(ids: Tensor, mask: Tensor, positions: Tensor, past: Any) -> tuple[Tensor, Any]:
        logits, present = model.run(ids.numpy(), mask.numpy(), positions.contiguous().numpy(), past)
        return torch.from_numpy(logits), present

    return run
