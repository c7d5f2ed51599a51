"""Embedding terms: what a model of embeddings learns from its teacher, and from pairs themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from graphprune.bounds import NotNegative
from graphprune.encoders.embeddings import Embedding, Named

_SCALE = 20.0  # of cosines in a softmax, as sentence-transformers has it
_LOGITS = "logits_per_image"


@dataclass(frozen=True)
class Terms:
    """The weights of what is learned: `task` the loss of pairs, `similarity` the teacher's similarities as a softmax,
    `feature` its embeddings, `hidden` its states behind each layer. Defaults of MoPE-CLIP (arXiv 2403.07839)."""

    task: NotNegative = 1.0
    similarity: NotNegative = 1.0
    feature: NotNegative = 1000.0
    hidden: NotNegative = 1.0


@dataclass(frozen=True, eq=False)
class Seen:
    """What one model makes of a batch: all outputs by name, and the states behind its layers by the nodes' names."""

    values: Mapping[str, Tensor]
    states: Mapping[str, Tensor]
    embeddings: tuple[Tensor, ...]


def read_seen(
    values: Sequence[Tensor], names: Sequence[str], own: int, embeddings: Sequence[Embedding], batch: Named
) -> Seen:
    """Of the values of a graph whose outputs from place `own` on are states."""
    outputs = dict(zip(names[:own], values[:own], strict=True))
    states = dict(zip(names[own:], values[own:], strict=True))
    return Seen(outputs, states, tuple(each.read(values, batch) for each in embeddings))


def taught_loss(student: Seen, teacher: Seen, terms: Terms) -> Tensor:
    """The weighted sum of what the teacher says: similarity, features and hidden states."""
    total = student.embeddings[0].new_zeros(())
    if terms.similarity:
        total = total + terms.similarity * similarity_loss(student, teacher)
    if terms.feature:
        pairs = zip(student.embeddings, teacher.embeddings, strict=True)
        total = total + terms.feature * sum((functional.mse_loss(s, t) for s, t in pairs), total.new_zeros(())) / 2
    if terms.hidden:
        states = [(state, teacher.states[name]) for name, state in student.states.items()]
        total = total + terms.hidden * sum((functional.mse_loss(s, t) for s, t in states), total.new_zeros(())) / 2
    return total


def similarity_loss(student: Seen, teacher: Seen) -> Tensor:
    """How far the student's softmax of similarities is from the teacher's, in nats: 0 where they agree.

    Of images and texts in both directions, by the logits that the models give; of texts alone with each other.
    """
    ours, theirs = logits_of(student), logits_of(teacher)
    if ours.shape[0] < 2:
        return ours.sum() * 0
    both = [(ours, theirs)] if len(student.embeddings) == 1 else [(ours, theirs), (ours.T, theirs.T)]
    found = [
        functional.kl_div(a.log_softmax(-1), b.log_softmax(-1), log_target=True, reduction="batchmean") for a, b in both
    ]
    return torch.stack(found).mean()


def logits_of(seen: Seen) -> Tensor:
    """Similarities as a softmax takes them; those of texts without each text's own, which is always 1."""
    if len(seen.embeddings) == 2:
        return seen.values[_LOGITS] if _LOGITS in seen.values else _SCALE * seen.embeddings[0] @ seen.embeddings[1].T
    (texts,) = seen.embeddings
    count = len(texts)
    apart = ~torch.eye(count, dtype=torch.bool, device=texts.device)
    return (_SCALE * texts @ texts.T)[apart].view(count, max(0, count - 1))
