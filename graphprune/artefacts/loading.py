"""Loading: an artefact as a user would load it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphprune.errors import ParityError
from graphprune.frontend.checks import check_no_extras
from graphprune.frontend.stored_weights import keep_in_file
from graphprune.generic import CODE, MODELING
from graphprune.ir.contract import DERIVED
from graphprune.running.open_model import OpenModel
from graphprune.running.runners import Runner

DECODERS = ("decoder", DERIVED)


def load_checkpoint(out: Path, kind: str, dtype: torch.dtype, in_file: bool = False) -> Any:
    """Load with the class that config.json names. No code of the folder runs: the generic class is graphprune's own.

    With `in_file` weights stay where they are, as they are stored, and are read as `dtype`. Remote code stays off as a
    whole, since transformers would take what else lies there with it, such as custom_generate/generate.py. Raises
    ParityError where the folder needs code that is not graphprune's.
    """
    import transformers

    check_no_extras(out, read_config(out))
    stored = "auto" if in_file else dtype
    options = {"trust_remote_code": False, "use_safetensors": True, "dtype": stored, "local_files_only": True}
    loader: Any = transformers.AutoModelForCausalLM
    if is_generic_form(out):
        loader = generic_class(out)
    elif kind not in DECODERS or kind == DERIVED:  # no mapping has all that generate text
        names = read_config(out).get("architectures") or [""]
        loader = getattr(transformers, names[0], transformers.AutoModel)
    model = loader.from_pretrained(out, **options).eval()
    if in_file:
        keep_in_file(model, dtype)
    return model


def generic_class(out: Path) -> Any:
    """The class of ours that config.json names."""
    from graphprune.generic import modeling_graphprune as ours

    names = read_config(out).get("architectures") or [""]
    found = getattr(ours, str(names[0]), None)
    if not (isinstance(found, type) and issubclass(found, ours.GraphprunePreTrainedModel)):
        raise ParityError(
            f"{out} names no class of graphprune's in config.json ({str(names[0])[:80]}); export it again"
        )
    return found


def read_config(out: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((out / "config.json").read_text(encoding="utf-8"))
    return config


def is_generic_form(out: Path) -> bool:
    """Say whether the checkpoint is of the generic class. Raises ParityError where it brings any other code."""
    config = read_config(out)
    places = config.get("auto_map") or {}
    if not places:
        return bool(config.get("graph"))
    if not isinstance(places, dict) or not all(str(target).startswith(f"{MODELING}.") for target in places.values()):
        raise ParityError(f"{out} needs code that graphprune did not write; it is not run")
    return True


def require_own_code(out: Path) -> None:
    """Raise ParityError where the files of code that go with the weights are not those that this graphprune writes.

    They are not run here; whoever trusts the folder later runs them.
    """
    for code in CODE:
        if not (out / code.name).is_file():
            raise ParityError(f"{out / code.name} is missing; export it again")
        if digest(out / code.name) != digest(code):
            raise ParityError(f"{out / code.name} differs from the file that this graphprune writes; it is not run")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def onnx_runner(model: OpenModel) -> Runner:
    def run(ids: Tensor, mask: Tensor, positions: Tensor, past: Any) -> tuple[Tensor, Any]:
        logits, present = model.run(ids.numpy(), mask.numpy(), positions.contiguous().numpy(), past)
        return torch.from_numpy(logits), present

    return run
