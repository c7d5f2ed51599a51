"""The sums of a few tokens against their formula."""

import pytest
import torch
from torch import Tensor

from graphprune.training.objective.sums import Blend, counted_tokens, token_sums


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def targets_of(tokens: int, words: int) -> Tensor:
    targets = torch.randint(words, (tokens,), generator=torch.Generator().manual_seed(2))
    targets[3:5] = -100
    return targets


def reference(student: Tensor, teacher: Tensor, targets: Tensor, alpha: float, temperature: float) -> float:
    """The formula, one token at a time in float64."""
    total = 0.0
    for place, target in enumerate(targets.tolist()):
        if target != -100:
            s, t = student[place].double(), teacher[place].double()
            p, q = (t / temperature).softmax(0), (s / temperature).softmax(0)
            divergence = temperature**2 * float((p * (p.log() - q.log())).sum())
            total += alpha * divergence - (1 - alpha) * float(s.log_softmax(0)[target])
    return total


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_the_loss_is_the_formula(alpha: float) -> None:
    student, teacher, targets = draw(18, 9).requires_grad_(), draw(18, 9, seed=1), targets_of(18, 9)
    loss, entropy, divergence = token_sums(student, targets, teacher, Blend(alpha, 2.0))
    assert loss.item() == pytest.approx(reference(student.detach(), teacher, targets, alpha, 2.0), rel=1e-5)
    assert loss.item() == pytest.approx(alpha * divergence.item() + (1 - alpha) * entropy.item(), rel=1e-5)
    loss.backward()
    assert student.grad is not None
    assert student.grad[3:5].abs().sum() == 0
    assert student.grad[:3].abs().sum() > 0


def test_without_a_teacher_it_is_cross_entropy() -> None:
    student, targets = draw(18, 9), targets_of(18, 9)
    loss, entropy, divergence = token_sums(student, targets, None, Blend())
    expected = torch.nn.functional.cross_entropy(student, targets, reduction="sum")
    assert loss == entropy == pytest.approx(expected.item(), rel=1e-6)
    assert divergence == 0


def test_a_student_that_is_the_teacher_has_no_gradient() -> None:
    student = draw(18, 9).requires_grad_()
    loss, _, divergence = token_sums(student, targets_of(18, 9), student.detach().clone(), Blend(1.0, 2.0))
    loss.backward()
    assert student.grad is not None
    assert abs(divergence.item()) < 1e-5
    assert student.grad.abs().max() < 1e-6


def test_the_first_token_and_masked_ones_do_not_count() -> None:
    labels = torch.zeros(3, 6, dtype=torch.long)
    labels[0, 3:5] = -100
    assert counted_tokens(labels) == 3 * 5 - 2
