"""AdamW over the parameters of a training: torch's own, or one whose moments are narrow or which steps in backward."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from graphprune.training.optimizer.states import narrow, widen
from graphprune.training.options import States, TrainOptions

FACTOR = "factor"  # of a group: how many times the weights' rate
_NONE: Mapping[str, "Stepped"] = MappingProxyType({})
_FREE: Mapping[str, "Pull"] = MappingProxyType({})
_SLICE = 1 << 22  # numbers that are updated at a time: their moments are wide for as long


class Stepped(Protocol):
    """How a tensor of its own is stepped: at so many times the rate of the weights, up the slope or down."""

    @property
    def factor(self) -> float: ...
    @property
    def ascends(self) -> bool: ...


class Pull(Protocol):
    """What is added to the first moment of a tensor in a step, of it and its gradient; None for nothing."""

    def __call__(self, weight: Tensor, gradient: Tensor, /) -> Tensor | None: ...


def make_adamw(
    trainable: Mapping[str, nn.Parameter],
    options: TrainOptions,
    rates: Mapping[str, Stepped] = _NONE,
    pulls: Mapping[str, Pull] = _FREE,
) -> torch.optim.Optimizer:
    """AdamW over these parameters; weight decay spares those of one dimension, which are norms and biases.

    Those with a rate of their own are not decayed.
    """
    listed = [parameter for name, parameter in trainable.items() if name not in rates]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in listed if p.dim() > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in listed if p.dim() < 2], "weight_decay": 0.0},
    ]
    for name, rate in rates.items():
        own = {"weight_decay": 0.0, FACTOR: rate.factor, "maximize": rate.ascends}
        groups.append({"params": [trainable[name]], **own})
    groups = [group for group in groups if group["params"]]
    if options.states == "float32" and not options.in_backward and not pulls:
        fused = is_fused(list(trainable.values()))
        return torch.optim.AdamW(groups, lr=options.lr, betas=options.betas, eps=options.eps, fused=fused)
    return AdamW(groups, options, {trainable[name]: each for name, each in pulls.items()})


def is_fused(tensors: Sequence[Tensor]) -> bool:
    return all(each.device.type in ("cpu", "cuda") for each in tensors)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Step the weights at this rate, and what has a rate of its own at so many times it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(FACTOR, 1.0)


@final
class AdamW(torch.optim.Optimizer):
    """AdamW a parameter at a time, with moments as `states` says; in float32 to the bits of torch's.

    What is rounded at random depends on the seed, the parameter's place and the update's number alone.
    """

    def __init__(
        self, groups: list[dict[str, Any]], options: TrainOptions, pulls: Mapping[nn.Parameter, Pull] | None = None
    ) -> None:
        super().__init__(groups, {"lr": options.lr, "betas": options.betas, "eps": options.eps})
        self.states: States = options.states
        self.seed = options.seed
        self.places = {p: place for place, p in enumerate(p for group in groups for p in group["params"])}
        self.pulls = dict(pulls or {})
        self.squares = dict[nn.Parameter, Tensor]()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter)

    def begin(self, parameter: nn.Parameter) -> dict[str, Any]:
        """The state of a parameter, at zero where there is none."""
        state: dict[str, Any] = self.state[parameter]
        if not state:
            own = parameter.detach()
            state["step"] = torch.zeros((), device=own.device)
            for kind in ("exp_avg", "exp_avg_sq"):
                state[kind] = narrow(torch.zeros_like(own), self.states)
        return state

    @torch.no_grad()
    def update(self, parameter: nn.Parameter) -> None:
        """One step of one parameter, slice by slice."""
        assert parameter.grad is not None
        state, group = self.begin(parameter), self.group_of(parameter)
        own, gradient = parameter.detach(), parameter.grad.reshape(-1)
        weight = own.reshape(-1)
        draw = self.draw(parameter, int(state["step"])) if self.states != "float32" else None
        pulling = self.pulls.get(parameter)
        pulled = None if pulling is None else pulling(own, parameter.grad)
        for start in range(0, weight.numel(), _SLICE):
            part = slice(start, start + _SLICE)
            moments = [widen(state[kind], part) for kind in ("exp_avg", "exp_avg_sq")]
            if pulled is None:
                step_slice(weight[part], gradient[part], moments, state["step"], group)
            else:
                step_pulled(weight[part], gradient[part], pulled.reshape(-1)[part], moments, state["step"], group)
            for kind, value in zip(("exp_avg", "exp_avg_sq"), moments, strict=True):
                state[kind].put(part, value, draw)
        if weight.data_ptr() != own.data_ptr():  # memory in another order was copied
            own.copy_(weight.view(own.shape))
        state["step"] += 1

    def draw(self, parameter: nn.Parameter, step: int) -> torch.Generator:
        """What rounds the moments of a parameter in this step."""
        number = (self.seed * 1_000_003 + step) * 65_537 + self.places[parameter]
        return torch.Generator(parameter.device).manual_seed(number % (1 << 62))

    def group_of(self, parameter: nn.Parameter) -> dict[str, Any]:
        return next(group for group in self.param_groups if any(parameter is each for each in group["params"]))

    def update_and_free(self, parameter: nn.Parameter) -> None:
        """A hook for backward: step as soon as the gradient is whole, and let it go."""
        assert parameter.grad is not None
        self.squares[parameter] = parameter.grad.detach().square().sum()
        self.update(parameter)
        parameter.grad = None

    def take_norm(self) -> Tensor:
        """The norm of the gradients that backward has stepped with since this was last asked."""
        squares, self.squares = self.squares, {}
        return torch.stack([squares[each] for each in sorted(squares, key=self.places.__getitem__)]).sum().sqrt()


def step_slice(weight: Tensor, gradient: Tensor, moments: list[Tensor], step: Tensor, group: dict[str, Any]) -> None:
    """AdamW of torch on a few numbers of one parameter, whose moments it changes where they lie."""
    adamw(
        [weight],
        [gradient],
        [moments[0]],
        [moments[1]],
        [],
        [step.clone()],
        fused=is_fused([weight]),
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=group.get("maximize", False),
    )


def step_pulled(
    weight: Tensor, gradient: Tensor, pull: Tensor, moments: list[Tensor], step: Tensor, group: dict[str, Any]
) -> None:
    """The same where `pull` is added to the first moment: the second takes the square of the sum, the first only g.

    Source: AST, arXiv 2407.20584, and its adamw.py.
    """
    (beta1, beta2), count = group["betas"], int(step) + 1
    first, second = moments
    weight.mul_(1 - group["lr"] * group["weight_decay"])
    first.lerp_(gradient, 1 - beta1)
    used = first + pull
    second.mul_(beta2).addcmul_(used, used, value=1 - beta2)
    size = (second / (1 - beta2**count)).sqrt_().add_(group["eps"])
    weight.addcdiv_(used, size, value=-group["lr"] / (1 - beta1**count))
