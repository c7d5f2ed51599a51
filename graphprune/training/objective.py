"""The objective: what the model is trained to do, as sums over the tokens that count.

Cross entropy with the text, and the divergence from a teacher's distribution:

    KD   = T^2 * sum over tokens of KL(softmax(teacher / T) || softmax(student / T))
    loss = alpha * KD + (1 - alpha) * CE

Sums, not means: the caller divides by the tokens of the whole step, so that unequal masks in the parts of a step weigh
as they should. Source: Hinton et al., arXiv 1503.02531; Adapt-Pruner, arXiv 2502.03460.
"""

import contextlib
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from graphprune.errors import UsageError
from graphprune.ir.contract import vocabulary_size
from graphprune.ir.graph import Graph
from graphprune.ir.placement import place
from graphprune.running.causal import causal_form
from graphprune.running.devices import choose_device
from graphprune.running.inputs import decoder_inputs
from graphprune.training.options import TrainOptions

IGNORED = -100
_LARGEST_CHUNK = 1 << 25  # logits that are widened to float32 at a time


@final
class Logits(nn.Module):
    """A language model as a module from token ids [rows, length] to logits [rows, length, vocabulary].

    Has the graph's parameters under their names behind `module.`. What a graph takes beside ids is made once, for rows
    and length as given; with `causal`, rows of that length run in the causal form.
    """

    def __init__(self, graph: Graph, rows: int, length: int, causal: bool = True) -> None:
        super().__init__()
        self.graph = graph
        self.length = length
        self.module = (causal_form(graph, length) if causal else graph).module
        self.inputs = decoder_inputs(graph, torch.zeros(rows, length, dtype=torch.long))
        self.place, self.output = graph.inputs.index("input_ids"), graph.outputs.index("logits")

    def forward(self, ids: Tensor) -> Tensor:
        known = self.inputs if ids.shape == self.inputs[self.place].shape else decoder_inputs(self.graph, ids)
        inputs = (*known[: self.place], ids, *known[self.place + 1 :])
        module = self.module if ids.shape[1] == self.length else self.graph.module
        return module(*inputs)[self.output]  # type: ignore[no-any-return]


@final
class Objective(nn.Module):
    """From ids and labels to the sums of cross entropy and divergence; the logits do not leave it.

    `model` is any module from ids to logits. `alpha` is the weight of the divergence.
    """

    def __init__(self, model: nn.Module, alpha: float = 0.0, temperature: float = 1.0) -> None:
        super().__init__()
        self.model, self.alpha, self.temperature = model, alpha, temperature

    def forward(self, ids: Tensor, labels: Tensor, teacher: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The sums (loss, cross entropy, divergence) in float32, the last two without gradients.

        `labels` [rows, length] holds the token at each place, or -100 where it does not count; place t is predicted
        from the places before it. `teacher` holds the teacher's logits for the same ids.
        """
        return objective_sums(self.model(ids), labels, teacher, self.alpha, self.temperature)


def objective_sums(
    logits: Tensor, labels: Tensor, teacher: Tensor | None, alpha: float, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The sums (loss, cross entropy, divergence) of a batch, widened a few rows at a time."""
    rows = max(1, _LARGEST_CHUNK // max(1, logits[0].numel()))
    starts = range(0, len(logits), rows)
    parts = []
    with torch.autocast(logits.device.type, enabled=False):
        for start in starts:
            part = slice(start, start + rows)
            given = (logits[part], labels[part], None if teacher is None else teacher[part], alpha, temperature)
            # Where there are several parts, what a part needs for its gradient is computed again rather than kept.
            parts.append(part_sums(*given) if len(starts) == 1 else checkpoint(part_sums, *given, use_reentrant=False))
        loss, entropy, divergence = (torch.stack(column).sum() for column in zip(*parts, strict=True))
    return loss, entropy, divergence


def part_sums(
    logits: Tensor, labels: Tensor, teacher: Tensor | None, alpha: float, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    targets = labels[:, 1:].flatten()
    student = logits[:, :-1].flatten(0, 1).float()
    if teacher is None:
        entropy = functional.cross_entropy(student, targets, ignore_index=IGNORED, reduction="sum")
        return entropy, entropy.detach(), torch.zeros_like(entropy)
    with torch.set_grad_enabled(torch.is_grad_enabled() and alpha < 1):
        entropy = functional.cross_entropy(student, targets, ignore_index=IGNORED, reduction="sum")
    divergence = divergence_sum(student, teacher[:, :-1].flatten(0, 1), targets != IGNORED, temperature)
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


DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

Teacher = Callable[[Tensor], Tensor]


def make_teacher(graph: Graph, options: TrainOptions, length: int, device: torch.device) -> Teacher:
    """From ids to the logits of a graph, without gradients, on the device that the ids are on.

    With `teacher_dtype` its matrices are kept in that type and it runs under autocast, otherwise as the student does.
    """
    there = device if options.teacher_device is None else choose_device(options.teacher_device)
    narrow = DTYPES.get(options.teacher_dtype)
    dtype = narrow or (DTYPES.get(options.precision) if there.type == device.type else None)
    model = Logits(place(graph, there, narrow), options.rows, length)

    def teach(ids: Tensor) -> Tensor:
        context = contextlib.nullcontext() if dtype is None else torch.autocast(there.type, dtype)
        with torch.no_grad(), context:
            return model(ids.to(there)).to(ids.device)  # type: ignore[no-any-return]

    return teach


def require_same_vocabulary(teacher: Graph, student: Graph) -> None:
    """Raise UsageError where the logits of the two do not belong to the same tokens."""
    taught, known = vocabulary_size(teacher), vocabulary_size(student)
    if taught != known or "logits" not in teacher.outputs:
        raise UsageError(
            f"the teacher knows {taught or 'no'} tokens and the student {known}; distillation needs one vocabulary, "
            "so take the unpruned source as the teacher, or set distill=0"
        )
