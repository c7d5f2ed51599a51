"""The pull: its course, its unit, and steps of AdamW with it, against a few lines by hand."""

import pytest
import torch
from torch import Tensor, nn

from graphprune.training.optimizer.adamw import AdamW, make_adamw, set_rate
from graphprune.training.options import TrainOptions
from graphprune.training.patterns.pulls import pull, strength

OPTIONS = TrainOptions(steps=10, lr=1e-2, weight_decay=0.1)


def test_it_rises_in_a_line_and_then_stays() -> None:
    found = [strength(step, 20, 0.5, 2.0) for step in (0, 5, 10, 15)]
    assert found == [0.0, 1.0, 2.0, 2.0]
    assert strength(0, 20, 0.0, 2.0) == 0.0
    assert strength(1, 20, 0.0, 2.0) == 2.0


def test_its_unit_is_the_mean_gradient_or_the_papers() -> None:
    weight, gradient = torch.tensor([3.0, -4.0]), torch.tensor([0.6, 0.8])
    kept = torch.tensor([True, False])
    assert pull(weight, gradient, kept, 0.5, "absolute").tolist() == [0.0, -2.0]
    # Means are (25 / 2)^1/2 of weights and (1 / 2)^1/2 of gradients: a fifth.
    torch.testing.assert_close(pull(weight, gradient, kept, 0.5, "gradient"), torch.tensor([0.0, -0.4]))
    scaled = pull(weight, 100 * gradient, kept, 0.5, "gradient")
    torch.testing.assert_close(scaled, 100 * pull(weight, gradient, kept, 0.5, "gradient"))
    assert not pull(0 * weight, gradient, kept, 0.5, "gradient").any()


@pytest.mark.parametrize("states", ["float32", "bf16", "int8"])
def test_steps_are_those_by_hand_and_the_first_moment_knows_of_no_pull(states: str) -> None:
    draw = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(8, 16, generator=draw))
    kept = torch.rand(8, 16, generator=draw) < 0.5
    options = TrainOptions(steps=10, lr=1e-2, weight_decay=0.1, states=states)  # type: ignore[arg-type]

    def pulled(own: Tensor, gradient: Tensor) -> Tensor:
        return pull(own, gradient, kept, 0.3, "absolute")

    alone = nn.Parameter(weight.detach().clone())
    made = make_adamw({"w": weight}, options, {}, {"w": pulled})
    free = make_adamw({"w": alone}, options, {}, {"w": lambda own, gradient: None})
    by_hand, first, second = weight.detach().clone(), torch.zeros(8, 16), torch.zeros(8, 16)
    for count in range(1, 5):
        gradient = torch.randn(8, 16, generator=draw)
        for each, optimizer in ((weight, made), (alone, free)):
            each.grad = gradient.clone()
            set_rate(optimizer, 1e-2)
            optimizer.step()
        used_weight = by_hand.clone()
        by_hand -= 1e-2 * 0.1 * by_hand
        first = 0.9 * first + 0.1 * gradient
        used = first + 0.3 * used_weight * ~kept
        second = 0.95 * second + 0.05 * used**2
        by_hand -= 1e-2 / (1 - 0.9**count) * used / ((second / (1 - 0.95**count)).sqrt() + 1e-8)
    loose = {"float32": 1e-6, "bf16": 1e-2, "int8": 5e-2}[states]
    torch.testing.assert_close(weight.detach(), by_hand, rtol=0, atol=loose)
    moments = [optimizer.state[each]["exp_avg"].codes for each, optimizer in ((weight, made), (alone, free))]
    assert torch.equal(*moments), "what pulls is in no first moment"
    assert not torch.equal(weight, alone)


def test_without_a_pull_a_step_is_that_of_torch_and_without_a_gradient_only_what_is_masked_shrinks() -> None:
    start = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    kept = torch.arange(32).view(4, 8) % 2 == 0
    one, other, still = (nn.Parameter(start.clone()) for _ in range(3))
    options = TrainOptions(steps=10, lr=1e-3)
    free = make_adamw({"w": one}, options, {}, {"w": lambda own, gradient: None})
    assert isinstance(free, AdamW)
    usual = make_adamw({"w": other}, options)
    held = make_adamw({"w": still}, options, {}, {"w": lambda own, g: pull(own, g, kept, 1.0, "absolute")})
    for place in range(3):
        for each, optimizer in ((one, free), (other, usual), (still, held)):
            each.grad = torch.zeros(4, 8) if each is still else torch.full((4, 8), 0.1 * place)
            optimizer.step()
    assert torch.equal(one, other)
    assert torch.equal(still[kept], start[kept])
    assert bool((still[~kept].abs() < start[~kept].abs()).all())
