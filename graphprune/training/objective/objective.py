"""The objective: from ids and labels to the sums that are minimised."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphprune.training.objective.chunks import Sums, chunked_sums
from graphprune.training.objective.predictor import Predictor
from graphprune.training.objective.sums import IGNORED, Blend, token_sums
from graphprune.training.objective.teacher import Teacher


@dataclass(frozen=True)
class Own:
    """A learner's own terms: the outputs that they look at beside logits, and what they are, as sums over tokens."""

    reads: tuple[str, ...]
    terms: Callable[[Mapping[str, Tensor], Tensor], Mapping[str, Tensor]]


@final
class Objective(nn.Module):
    """From ids and labels to the sums of loss, cross entropy and divergence; the logits do not leave it.

    `words` is the size of the vocabulary. `teacher` makes logits of the features that it gave. `own` are terms that
    are added to the loss.
    """

    def __init__(
        self, model: Predictor, words: int, blend: Blend, teacher: Teacher | None = None, own: Own | None = None
    ) -> None:
        super().__init__()
        self.model, self.words, self.blend, self.own = model, words, blend, own
        self.teachers = (teacher,)  # in a tuple: it is no part of what is trained

    def forward(
        self, ids: Tensor, labels: Tensor, taught: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Mapping[str, Tensor]]:
        """The sums (loss, cross entropy, divergence) in float32, the last two without gradients, and those of the own
        terms by name, which are in the loss.

        `labels` [rows, length] holds the token at each place, or -100 where it does not count; place t is predicted
        from the places before it. `taught` holds the teacher's features of the same ids.
        """
        named = {} if self.own is None else self.model.named(ids, self.own.reads)
        features, head = named["logits"] if named else self.model(ids), self.model.head
        targets = functional.pad(labels[:, 1:], (0, 1), value=IGNORED).flatten()
        known = None if taught is None else taught.flatten(0, 1)
        sums = partial(self.sums, targets, known)
        trained = () if head is None else head.trained()
        loss, entropy, divergence = chunked_sums(sums, features.flatten(0, 1), trained, self.words)
        added = {} if self.own is None else self.own.terms(named, labels)
        for term in added.values():
            loss = loss + term
        return loss, entropy, divergence, {name: term.detach() for name, term in added.items()}

    def sums(self, targets: Tensor, taught: Tensor | None, features: Tensor, part: slice) -> Sums:
        """Those of some tokens."""
        (teacher,), head = self.teachers, self.model.head
        logits = features if head is None else head(features)
        expected = None
        if taught is not None and teacher is not None:
            expected = teacher.logits(taught[part]).to(logits.device)
        with torch.autocast(logits.device.type, enabled=False):
            return token_sums(logits, targets[part], expected, self.blend)
