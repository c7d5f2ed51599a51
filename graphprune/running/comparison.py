"""Comparison: how far two computations of the same thing are apart, and how far they may be."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from graphprune.errors import ParityError
from graphprune.ir.graph import Graph
from graphprune.models.decoder import same_tensors
from graphprune.running.observations import encoder_reference, example_prompts, observe, observe_encoder, observe_padded
from graphprune.running.runners import graph_runner, model_runner, whole_runner
from graphprune.weights.stored import any_stored

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OTHER_TEXTS = "it writes other texts: judge it by its held-out perplexity, or take more bits"
_COARSE = 0.1  # no format in full precision is allowed so much
State = Literal["ok", "care", "broken"]
TOLERANCES = {"float64": 1e-6, "float32": 1e-4, "bfloat16": 3e-2, "float16": 5e-3}


@dataclass(frozen=True)
class Check:
    """One comparison: the largest difference as a share of `scale` (the largest logit, at least 1), and its limit.

    `advice` is what to do where what passed is not as good as the graph.
    """

    artefact: str
    name: str
    difference: float
    tolerance: float
    scale: float
    passed: bool
    detail: str = ""
    advice: str = ""

    @property
    def state(self) -> State:
        """`ok`, `care` where it is usable with care, or `broken`."""
        return "broken" if not self.passed else "care" if self.advice else "ok"


@dataclass(frozen=True)
class Coarseness:
    """How far logits in fewer bits may be off, as a share of the largest: up to `near` they are as good as the graph's,
    beyond `most` the model is broken and not only coarse."""

    near: float
    most: float


def agree(model: "PreTrainedModel", graph: Graph) -> bool:
    """Say whether a transformers model computes what the graph computes, in this process: the quick form of `check`."""
    return all(entry.passed for entry in compare_models(model, graph))


def compare_models(model: "PreTrainedModel", graph: Graph) -> list[Check]:
    """A transformers model against a graph, in this process; a copy runs, since some models keep things of a run."""
    model = (copy.deepcopy(model) if graph.source.changes else same_tensors(model)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        if graph.source.kind == "decoder":
            inputs = example_prompts(graph, generator)
            runner = whole_runner(model) if graph.source.derived_cache else model_runner(model)
            # Weights that stay in their file are read once for each run of the model: two runs have to be enough.
            see = observe_padded if any_stored(graph.tensors().values()) else observe
            wanted, found = see(graph_runner(graph), inputs), see(runner, inputs)
        else:
            wanted = encoder_reference(graph, generator)
            found = observe_encoder(model, wanted)
    return [compare(type(model).__name__, name, wanted[name], tensor) for name, tensor in found.items()]


def compare(artefact: str, name: str, expected: Tensor, found: Tensor) -> Check:
    tolerance = TOLERANCES[str(expected.dtype).removeprefix("torch.")]
    if expected.shape != found.shape:
        detail = f"shape {tuple(found.shape)} where the graph gives {tuple(expected.shape)}"
        return Check(artefact, name, float("inf"), tolerance, 1.0, False, detail)
    wanted, got = expected.double().cpu(), found.double().cpu()
    scale = max(1.0, float(wanted.abs().max()))
    difference = float((wanted - got).abs().max()) / scale
    return Check(artefact, name, difference, tolerance, scale, difference <= tolerance)


def compare_tokens(artefact: str, expected: Mapping[str, Tensor], found: Sequence[int]) -> Check:
    """Greedy tokens must be the same; where the two best logits tie within the tolerance, comparing ends there."""
    wanted, margins = expected["greedy.tokens"].tolist(), expected["greedy.margins"].tolist()
    tolerance = TOLERANCES[str(expected["prefill"].dtype).removeprefix("torch.")]
    scale = max(1.0, float(expected["prefill"].abs().max()))
    count = next((i for i, pair in enumerate(zip(wanted, found, strict=False)) if pair[0] != pair[1]), len(found))
    tie = count < len(wanted) and count < len(found) and margins[count] <= 2 * tolerance * scale
    detail = f"{count} of {len(wanted)} tokens equal" + (", then a tie within the tolerance" if tie else "")
    return Check(artefact, "greedy tokens", float(len(wanted) - count), 0.0, scale, count == len(wanted) or tie, detail)


def in_fewer_bits(check: Check, limits: Coarseness) -> Check:
    """The check of a model in fewer bits than the graph's: coarse is usable with care, far off is broken.

    Other greedy tokens break nothing: the two best may lie close, and one other token makes another text.
    """
    if check.name.startswith("greedy tokens"):
        return replace(check, passed=True, advice="" if check.passed else OTHER_TEXTS)
    passed, near = check.difference <= limits.most, check.difference <= limits.near
    advice = "" if near or not passed else "coarse: judge it by its held-out perplexity, or take more bits"
    return replace(check, tolerance=limits.most, passed=passed, advice=advice)


def require(checks: Sequence[Check]) -> None:
    """Raise ParityError naming the worst comparison that failed."""
    failed = [entry for entry in checks if not entry.passed]
    if failed:
        worst = max(failed, key=lambda entry: entry.difference)
        said = worst.detail or f"differs by {worst.difference:.2e} of {worst.scale:.3g}, allowed {worst.tolerance:.0e}"
        fewer = "; leave it out, or take more bits" if worst.tolerance >= _COARSE else ""
        raise ParityError(f"{worst.artefact}: {worst.name}: {said}{fewer}")
    if not checks:
        raise ParityError("no artefact was compared; the folder holds neither a checkpoint nor an ONNX model")
