"""Sums: cross entropy with the text and the divergence from a teacher's distribution, over the tokens that count.

    KD   = T^2 * sum over tokens of KL(softmax(teacher / T) || softmax(student / T))
    loss = alpha * KD + (1 - alpha) * CE

Sums, not means: the caller divides by the tokens of the whole step, so that unequal masks in the parts of a step weigh
as they should. Source: Hinton et al., arXiv 1503.02531; Adapt-Pruner, arXiv 2502.03460.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100


@dataclass(frozen=True)
class Blend:
    """How much the teacher weighs in the loss, and at which temperature distributions are compared."""

    alpha: float = 0.0
    temperature: float = 1.0


def token_sums(student: Tensor, targets: Tensor, teacher: Tensor | None, blend: Blend) -> tuple[Tensor, Tensor, Tensor]:
    """The sums (loss, cross entropy, divergence) in float32 of tokens, the last two without gradients.

    `student` and `teacher` are logits [tokens, words]; a target of -100 does not count.
    """
    student, alpha = student.float(), blend.alpha
    if teacher is None:
        entropy = functional.cross_entropy(student, targets, ignore_index=IGNORED, reduction="sum")
        return entropy, entropy.detach(), torch.zeros_like(entropy)
    with torch.set_grad_enabled(torch.is_grad_enabled() and alpha < 1):
        entropy = functional.cross_entropy(student, targets, ignore_index=IGNORED, reduction="sum")
    divergence = divergence_sum(student, teacher, targets != IGNORED, blend.temperature)
    loss = alpha * divergence if alpha == 1 else alpha * divergence + (1 - alpha) * entropy
    return loss, entropy.detach(), divergence.detach()


def divergence_sum(student: Tensor, teacher: Tensor, counted: Tensor, temperature: float) -> Tensor:
    """T^2 times the sum, over the rows that count, of KL(teacher || student) at temperature T; logits [rows, words]."""
    expected = functional.log_softmax(teacher.float() / temperature, dim=-1)
    predicted = functional.log_softmax(student / temperature, dim=-1)
    each = functional.kl_div(predicted, expected, reduction="none", log_target=True).sum(-1)
    return temperature**2 * torch.where(counted, each, 0.0).sum()


def counted_tokens(labels: Tensor) -> int:
    """The number of tokens that the loss is taken over."""
    return int((labels[:, 1:] != IGNORED).sum())
