"""Ablation importance: what is lost without a head, a group of channels, a branch or a layer, each by itself."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from graphprune.bounds import Count
from graphprune.encoders.embeddings import find_embeddings
from graphprune.encoders.recall import Recall
from graphprune.errors import DataError, UsageError
from graphprune.gates.gated import gate
from graphprune.passes.importance.magnitude import Magnitude
from graphprune.passes.importance.taylor import Taylor
from graphprune.pruning.interfaces import Importance, Scene
from graphprune.pruning.kept_scores import name_scene
from graphprune.pruning.layer_runs import block_runs
from graphprune.pruning.search.journal import Journal
from graphprune.pruning.search.mask_probe import MaskProbe
from graphprune.pruning.search.modules import HEADS, find_modules, share_errors
from graphprune.pruning.search.without import kept_losses
from graphprune.running.loss import Loss, predictions


@final
@dataclass(frozen=True)
class Ablation(Importance):
    """Z(f) - Z(f - theta): how much worse the model is without a module theta, which is taken out by itself.

    Of layers and branches the depth pruning by perplexity of Minitron (arXiv 2407.14679) and of SLEB: one run of the
    text for each, from that place on. Of units the module-wise pruning error of MoPE-CLIP (arXiv 2403.07839): each
    head is a module; other units, MLP channels above all, are ranked first (`prerank`), and cut in that order into
    `parts` modules, whose error their units share. Masks stand for cuts, many in one forward. With `shared` the parts
    of one rank go in all layers at once: `parts` runs in place of `parts` a layer. Z is minus the loss, or with
    `metric=recall` the recall@k of images and texts, in both directions, within each batch. What is missed by nobody
    has exactly 0.
    """

    name: ClassVar[str] = "ablation"
    needs_data: ClassVar[bool] = True
    metric: Literal["loss", "recall"] = "loss"
    k: Count = 1
    parts: Count = 8
    prerank: Literal["taylor", "magnitude"] = "taylor"
    shared: bool = False

    def score(self, scene: Scene) -> dict[str, Tensor]:
        loss, like = self.measure(scene), next(iter(scene.graph.parameters().values())).detach()
        gated = gate(scene.graph, scene.candidates, "survivors")
        ranked = tuple(group for group in scene.candidates if group.kind not in HEADS)
        first = Taylor() if self.prerank == "taylor" else Magnitude()
        ranks = first.score(replace(scene, candidates=ranked)) if ranked else {}
        modules = find_modules(scene.candidates, ranks, self.parts, self.shared)
        probe = MaskProbe(gated, scene.batches, loss, self.journal(scene))
        whole = {group.id: like.new_ones(group.units) for group in scene.candidates}
        masks = [whole, *(module.mask(scene.candidates, like) for module in modules)]
        values = probe(masks, scene.progress).tolist()
        require_finite(values)
        scene.note(f"ablation took out {len(modules)} modules by themselves: {describe(scene, modules)}")
        return share_errors(scene.candidates, modules, [each - values[0] for each in values[1:]], ranks)

    def score_blocks(self, scene: Scene) -> dict[str, Tensor]:
        loss, parts, journal = self.measure(scene), block_runs(scene.groups, scene.candidates), self.journal(scene)
        totals, count = [0.0] * (len(parts) + 1), sum(map(predictions, scene.batches))
        for place, batch in enumerate(scene.batches):
            scene.progress(place, len(scene.batches))
            for number, each in enumerate(kept_losses(journal, place, batch, scene, loss, parts)):
                totals[number] += each * predictions(batch)
        whole, *without = (total / max(1, count) for total in totals)
        require_finite((whole, *without))
        rises = {branch.id: each - whole for part, each in zip(parts, without, strict=True) for branch in part}
        return {block.id: torch.tensor([rises[block.id]]) for block in scene.candidates}

    def journal(self, scene: Scene) -> Journal:
        """Where what was measured is kept, so that a run that was stopped goes on."""
        return Journal(None if scene.folder is None else scene.folder / f"ablation-{name_scene(self, scene)}.jsonl")

    def measure(self, scene: Scene) -> Loss | None:
        """What is measured of a model, less being better. Raises UsageError where there is nothing to measure it on."""
        if not scene.batches:
            raise UsageError("ablation measures the loss on calibration text; give --data")
        return scene.loss if self.metric == "loss" else Recall(find_embeddings(scene.graph), self.k)


def describe(scene: Scene, modules: Sequence[object]) -> str:
    """How many of them are heads, and how many groups of other units."""
    heads = sum(group.units for group in scene.candidates if group.kind in HEADS)
    return f"{heads} heads and {len(modules) - heads} groups of channels"


def require_finite(values: Iterable[float]) -> None:
    if not all(map(math.isfinite, values)):
        raise DataError("the loss on the calibration data is not finite; check the weights and the data")
