"""Policy importance: the probability that a unit stays, learned by policy gradient from the losses of drawn masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, final

import numpy
import torch
from annotated_types import Ge, Lt
from torch import Tensor

from graphprune.analysis.groups import BLOCKS, Group
from graphprune.bounds import Count, Positive
from graphprune.errors import UsageError
from graphprune.gates.gated import gate
from graphprune.pruning.interfaces import Importance, Scene
from graphprune.pruning.kept_scores import name_scene
from graphprune.pruning.policy.bundles import Bundles, Numbers, smallest_fit, tie_up
from graphprune.pruning.policy.descent import Descent, Judged, descend
from graphprune.pruning.policy.estimator import Baseline, Form
from graphprune.pruning.policy.losses import MaskLosses, parts_of
from graphprune.pruning.policy.spending import first_shares, spending
from graphprune.pruning.search.journal import Journal
from graphprune.pruning.shares import within_reach
from graphprune.spec import parse_spec

FLAT = "flat"  # to start from equal probabilities
_TAUGHT = 20  # masks that it takes to teach one bundle
_TELL = 100  # times that progress is told
_BEGINNING, _OWN = 1e-3, 1e-5  # what breaks ties of shares


@final
@dataclass(frozen=True)
class Policy(Importance):
    """Learn the probability that each unit stays: Bypass Back-propagation (arXiv 2406.10576).

    Masks are drawn, `masks` a step, and judged by the loss on `rows` samples of the calibration text, all in one
    forward and without gradients; the probabilities are moved against the policy gradient of the mean loss, and
    projected onto what the budget allows at true costs. Channels are tied up in bundles of `bundle`, neighbours in the
    order of the scores of `init`, an importance, or `flat`, from which the probabilities start too; heads and experts
    are learned one by one, and branches or layers as what goes whole.

    `baseline=slopes` takes from each loss what its bundles are known to add, `others` the mean of the other masks,
    `moving` a mean over the last `window` steps. `form=sqrt` is the published code's gradient, `exact` the paper's,
    `natural` that of the metric of the masks. `rate`, which falls to 0 as a cosine, is in units of the spread of losses
    with `relative`. As published: form sqrt, baseline moving, relative false, rate 0.002, masks 2, margin 0.
    """

    name: ClassVar[str] = "policy"
    needs_data: ClassVar[bool] = True
    searches: ClassVar[bool] = True
    steps: Count = 3000
    masks: Count = 4
    rows: Count = 1
    bundle: Count = 8
    init: str = "wanda"
    rate: Positive = 0.04
    form: Form = "sqrt"
    baseline: Baseline = "slopes"
    window: Count = 5
    relative: bool = True
    margin: Annotated[float, Ge(0), Lt(0.5)] = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.masks == 1 and self.baseline != "moving":
            raise UsageError(
                "policy compares the masks of a step with each other; use masks=2 or more, or baseline=moving"
            )
        if self.init != FLAT:
            first = parse_spec("importance", self.init)
            if isinstance(first, Policy):
                raise UsageError("policy{init=} is what the probabilities start from: another importance, or flat")

    def score(self, scene: Scene) -> dict[str, Tensor]:
        first = self.first(scene)
        return self.learn(scene, even(scene) if first is None else first.score(scene))

    def score_blocks(self, scene: Scene) -> dict[str, Tensor]:
        first = self.first(scene)
        return self.learn(scene, even(scene) if first is None else first.score_blocks(scene))

    def first(self, scene: Scene) -> Importance | None:
        """What the probabilities start from; None for equal ones."""
        if not scene.batches:
            raise UsageError("policy judges masks on calibration text; give --data")
        return None if self.init == FLAT else parse_spec("importance", self.init)

    def learn(self, scene: Scene, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The probabilities of all candidates, learned from where these scores start them."""
        scene = within_reach(scene)
        bundles = tie_up(scene.candidates, scores, self.bundle)
        self.warn(scene, bundles)
        spent = spending(scene, bundles)
        start = first_shares(standardise(scene.candidates, bundles, scores), spent, self.margin)
        gated, parts = gate(scene.graph, scene.candidates, "survivors"), parts_of(scene.batches, self.rows)
        journal = Journal(None if scene.folder is None else scene.folder / "policy.jsonl")
        judge = MaskLosses(gated, bundles, parts, scene.loss, scene.seed)
        heard = Heard(scene, self.steps)
        judged = Judged(judge, journal, name_scene(self, scene))
        shares, lost = descend(start, spent, judged, self.descent, scene.seed, heard)
        heard.say(lost)
        return settle(bundles, shares, start, scores)

    @property
    def descent(self) -> Descent:
        return Descent(
            self.steps, self.masks, self.rate, self.form, self.baseline, self.window, self.relative, self.margin
        )

    def warn(self, scene: Scene, bundles: Bundles) -> None:
        """Tell where there is more to learn than so many masks can teach."""
        masks = self.steps * self.masks
        if len(bundles) <= masks // _TAUGHT:
            return
        fit = smallest_fit(scene.candidates, masks // _TAUGHT)
        more = f"steps={-(-_TAUGHT * len(bundles) // self.masks)}"
        scene.note(
            f"policy: {masks} masks teach {masks // _TAUGHT} gates, and there are {len(bundles)}: what is found is "
            f"little better than the start; use policy{{{more if fit is None else f'bundle={fit}'}}}"
        )


def even(scene: Scene) -> dict[str, Tensor]:
    """The same score for all units."""
    return {group.id: torch.zeros(group.units) for group in scene.candidates}


@final
@dataclass(frozen=True, eq=False)
class Heard:
    """Tells of progress, and keeps the mean losses of the first steps and of the last."""

    scene: Scene
    steps: int
    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)

    def __call__(self, step: int, _: Numbers, loss: float) -> None:
        part = max(1, self.steps // _TELL)
        if step < part:
            self.first.append(loss)
        if step >= self.steps - part:
            self.last.append(loss)
        if step % part == 0 or step + 1 == self.steps:
            self.scene.progress(step + 1, self.steps)

    def say(self, lost: int) -> None:
        """The notes on a descent that is done."""
        first, last = (sum(losses) / len(losses) for losses in (self.first, self.last))
        self.scene.note(f"policy: the masks drawn had a mean loss of {first:.4f} at first and of {last:.4f} in the end")
        if lost:
            self.scene.note(f"policy: {lost} losses were not finite, and counted as the worst of their step")


def standardise(candidates: Sequence[Group], bundles: Bundles, scores: Mapping[str, Tensor]) -> Numbers:
    """The mean score of each bundle, around the mean of those of its group and over their deviation; blocks are one."""
    total = numpy.zeros(len(bundles))
    held = numpy.zeros(len(bundles))
    for id, owner in bundles.owner.items():
        numpy.add.at(total, owner.numpy(), scores[id].double().cpu().numpy())
        numpy.add.at(held, owner.numpy(), 1)
    means, every, found = total / held, numpy.arange(len(bundles)), numpy.zeros(len(bundles))
    blocks = sorted({int(bundles.owner[group.id]) for group in candidates if group.kind in BLOCKS})
    for alike in (every[blocks], *(every[run.place] for run in bundles.runs)):
        deviation = float(means[alike].std()) if len(alike) else 0.0
        if deviation > 0:
            found[alike] = (means[alike] - means[alike].mean()) / deviation
    return found


def settle(bundles: Bundles, shares: Numbers, start: Numbers, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What ranks units: the share of their bundle, then the share it began with, then their own place in the group."""
    by_bundle = bundles.spread(shares + _BEGINNING * start)
    return {id: (value + _OWN * places(scores[id])).float() for id, value in by_bundle.items()}


def places(scores: Tensor) -> Tensor:
    """The place of each score in falling order, from 1 for the best to 0: float64."""
    order = torch.argsort(torch.argsort(scores.cpu(), stable=True), stable=True)
    return order.double() / max(1, len(order) - 1)
