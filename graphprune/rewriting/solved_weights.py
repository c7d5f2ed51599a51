"""Solved weights: a plan with the weights that were solved for it beside it, so that `apply` gives the very model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from graphprune.data.fingerprints import hash_file
from graphprune.data.tensor_names import name_tensors
from graphprune.errors import PlanError
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.json_data import read_object
from graphprune.rewriting.apply import apply

PLAN, WEIGHTS = "plan.json", "weights.safetensors"
_REMEDY = "; take the folder as it was written"


@dataclass(frozen=True, eq=False)
class Solved:
    """Weights for the result of a plan: by name those that are not the source's own, and the source's name."""

    tensors: Mapping[str, Tensor]
    source: str


def write_solved(folder: Path, source: Graph, graph: Graph) -> None:
    """Write the plan of a graph and its weights that the plan alone would not give, in the source's type.

    The plan names the file and its hash, so it is written last: with it all is there.
    """
    plan, dtype = graph.lineage.plan, graph.source.dtype
    plain = apply(source, plan).tensors()
    changed = {n: t.detach().to(dtype or t.dtype) for n, t in graph.tensors().items() if not torch.equal(t, plain[n])}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.cpu().contiguous().clone() for name, tensor in changed.items()}, folder / WEIGHTS)
    solved = {"file": WEIGHTS, "blake2b": hash_file(folder / WEIGHTS), "source": name_tensors(source.tensors())}
    text = json.dumps({**plan.to_data(), "weights": solved}, indent=1) + "\n"
    part = folder / f".{PLAN}.part"
    part.write_text(text, encoding="utf-8")
    part.replace(folder / PLAN)


def read_solved(path: Path) -> Solved | None:
    """The weights that a plan's file names; None where it names none. Raises PlanError where they are not there."""
    named = read_object(path).get("weights")
    if named is None:
        return None
    if not isinstance(named, dict) or named.get("file") != WEIGHTS:
        raise PlanError(f"{path} names weights in another place than {WEIGHTS} beside it{_REMEDY}")
    file = path.parent / WEIGHTS
    if file.is_symlink() or not file.is_file():
        raise PlanError(f"{path} is for the weights in {WEIGHTS}, which is not beside it{_REMEDY}")
    if hash_file(file) != named.get("blake2b"):
        raise PlanError(f"{file} is not what {PLAN} was written with{_REMEDY}")
    try:
        return Solved(load_file(file), str(named.get("source")))
    except (SafetensorError, ValueError) as error:
        raise PlanError(f"{file} holds no weights: {str(error)[:100]}{_REMEDY}") from error


def apply_solved(source: Graph, plan: Plan, solved: Solved | None) -> Graph:
    """The source cut by a plan, with the weights that were solved for it. Raises PlanError for those of others."""
    if solved is None:
        return apply(source, plan)
    if solved.source != name_tensors(source.tensors()):
        raise PlanError(
            "the weights beside the plan were solved for another model; give the one that they were made of"
        )
    cut = apply(source, plan)
    own = cut.tensors()
    for name, tensor in solved.tensors.items():
        if name not in own or tensor.shape != own[name].shape or not tensor.is_floating_point():
            raise PlanError(f"the weights beside the plan hold {name[:80]}, which does not fit the model{_REMEDY}")
    trained = cut.parameters()
    put = {
        name: torch.nn.Parameter(tensor.to(own[name].dtype), requires_grad=trained[name].requires_grad)
        for name, tensor in solved.tensors.items()
        if name in trained
    }
    return cut.with_tensors(put)
