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
_SLICE = 1 << 22  # numbers that are updated at a time: their moments are wide for as long


class Stepped(Protocol):
    """How a tensor of its own is stepped: at so many times the rate of the weights, up the slope or down."""

    @property
    def factor(self) -> float: ...
    @property
    def ascends(self) -> bool: ...


def make_adamw(
    trainable: Mapping[str, nn.Parameter], options: TrainOptions, rates: Mapping[str, Stepped] = _NONE
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
    if options.states == "float32" and not options.in_backward:
        fused = is_fused(list(trainable.values()))
        return torch.optim.AdamW(groups, lr=options.lr, betas=options.betas, eps=options.eps, fused=fused)
    return AdamW(groups, options)


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

    def __init__(self, groups: list[dict[str, Any]], options: TrainOptions) -> None:
        super().__init__(groups, {"lr": options.lr, "betas": options.betas, "eps": options.eps})
        self.states: States = options.states
        self.seed = options.seed
        self.places = {p: place for place, p in enumerate(p for group in groups for p in group["params"])}
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
        number = (self.seed * 1_000_003 + int(state["step"])) * 65_537 + self.places[parameter]
        draw = torch.Generator(weight.device).manual_seed(number % (1 << 62))
        for start in range(0, weight.numel(), _SLICE):
            part = slice(start, start + _SLICE)
            moments = [widen(state[kind], part) for kind in ("exp_avg", "exp_avg_sq")]
            step_slice(weight[part], gradient[part], moments, state["step"], group)
            for kind, value in zip(("exp_avg", "exp_avg_sq"), moments, strict=True):
                state[kind].put(part, value, draw)
        if weight.data_ptr() != own.data_ptr():  # memory in another order was copied
            own.copy_(weight.view(own.shape))
        state["step"] += 1

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
