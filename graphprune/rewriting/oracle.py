"""The oracle at work: every compilation compares its cut model with the masked source, in the same process."""

from dataclasses import replace

import torch
from torch import Tensor

from graphprune.edits.editing import edited
from graphprune.errors import InvariantError
from graphprune.ir.contract import fitting_length, rows_of_ids
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.rewriting.apply import apply, kept_masks
from graphprune.rewriting.masked import Masked, masked
from graphprune.rewriting.norm_statistics import averages_less
from graphprune.rewriting.widths import Widths
from graphprune.running.comparison import TOLERANCES, Check
from graphprune.running.inputs import decoder_inputs

_ROWS, _LENGTH = 2, 16


def check_against_masked(source: Graph, cut: Graph, plan: Plan, seed: int) -> tuple[Check, ...]:
    """Compare logits of the cut and the masked model on random tokens; with exact statistics they are equal.

    Both are of the source with the plan's edits, which must compute what the source does. `cut` itself is compared
    where its statistics are exact or no average is of fewer channels, else the same cut made with exact ones. Tokens
    that a plan cuts are left out of both. Graphs that are no language models are not compared.
    Raises InvariantError where the two differ: a rule was wrong, and the result would be too.
    """
    whole = edited(source, plan.edits)
    model = masked(whole)
    if source.source.kind != "decoder":
        return ()
    widths = Widths(model.analysis.inference, kept_masks(model.analysis, plan))
    exact = plan.statistics == "exact" or not averages_less(whole, widths)
    cut = cut if exact else apply(source, replace(plan, statistics="exact"), model.analysis)
    difference, scale = largest_difference(model, cut, plan, random_tokens(cut, seed))
    tolerance = TOLERANCES["float32"]
    if not difference <= tolerance:
        reason = f"the cut model differs from the masked one by {difference:.1e}: an axis rule is wrong"
        raise InvariantError(f"{reason}; please report this model")
    checks = check_edits(source, whole, seed) if plan.edits else ()
    return (*checks, Check("graph", "equals the masked source", difference, tolerance, scale, True))


def check_edits(source: Graph, whole: Graph, seed: int) -> tuple[Check, ...]:
    """Compare logits of a source and of what edits made of it. Raises InvariantError where they differ."""
    ids = random_tokens(source, seed)
    with torch.no_grad():
        wanted, found = (graph(*decoder_inputs(graph, ids))[0] for graph in (source, whole))
    scale = max(1.0, float(wanted.abs().max()))
    known = found[..., : wanted.shape[-1]]  # an edit may append words
    difference, tolerance = float((wanted - known).abs().max()) / scale, TOLERANCES["float32"]
    if not difference <= tolerance:
        raise InvariantError(f"the edits change what the model computes by {difference:.1e}; please report this model")
    return (Check("graph", "edits leave the source as it is", difference, tolerance, scale, True),)


def require_same_structure(made: Graph, shipped: Graph) -> None:
    """Raise InvariantError where a graph that was trained is not the one that its plan makes, values aside."""
    shapes = [{name: tuple(tensor.shape) for name, tensor in graph.tensors().items()} for graph in (made, shipped)]
    if str(made) != str(shipped) or list(shapes[0].items()) != list(shapes[1].items()):
        wrong = next((name for name, shape in shapes[1].items() if shapes[0].get(name) != shape), "its operators")
        raise InvariantError(f"the result is not what its plan makes of the source: {wrong}; please report this model")


def random_tokens(graph: Graph, seed: int) -> Tensor:
    size = int(graph.results["logits"].meta["value"].shape[-1])
    shape = _ROWS * rows_of_ids(graph), fitting_length(graph, _LENGTH)
    return torch.randint(size, shape, generator=torch.Generator().manual_seed(seed))


def kept_tokens(model: Masked, plan: Plan) -> Tensor:
    """The source's ids of the tokens that a plan keeps, in order."""
    groups = model.analysis.groups
    cut = next((units for id, units in plan.keep.items() if groups[id].kind == "vocabulary"), None)
    size = int(model.graph.results["logits"].meta["value"].shape[-1])
    return torch.arange(size) if cut is None else torch.tensor(cut)


def largest_difference(model: Masked, cut: Graph, plan: Plan, ids: Tensor) -> tuple[float, float]:
    """The largest difference of any logit, relative to the largest logit. `ids` are numbered as in the cut model."""
    known = kept_tokens(model, plan)
    with torch.no_grad():
        wanted = model(plan, *decoder_inputs(model.graph, known[ids]))[0][..., known]
        found = cut(*decoder_inputs(cut, ids))[0]
    scale = max(1.0, float(wanted.abs().max()))
    return float((wanted - found).abs().max()) / scale, scale
