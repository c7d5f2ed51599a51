"""The teacher: a model whose predictions the student learns, without gradients."""

import contextlib
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from graphprune.errors import UsageError
from graphprune.ir.contract import vocabulary_size
from graphprune.ir.graph import Graph
from graphprune.ir.placement import place
from graphprune.running.devices import choose_device
from graphprune.training.objective.predictor import Predictor
from graphprune.training.options import TrainOptions

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@final
@dataclass(frozen=True, eq=False)
class Teacher:
    """Gives features of ids on its own device, and logits of features wherever they are wanted."""

    model: Predictor
    device: torch.device
    dtype: torch.dtype | None

    def __call__(self, ids: Tensor) -> Tensor:
        """Features [rows, length, ...], on the teacher's device."""
        with torch.no_grad(), self.precision():
            return self.model(ids.to(self.device))  # type: ignore[no-any-return]

    def logits(self, features: Tensor) -> Tensor:
        """Logits [tokens, words] of features [tokens, ...]."""
        if self.model.head is None:
            return features
        with torch.no_grad(), self.precision():
            return self.model.head(features.to(self.device))  # type: ignore[no-any-return]

    def precision(self) -> contextlib.AbstractContextManager[object]:
        if self.dtype is None:
            return torch.autocast(self.device.type, enabled=False)
        return torch.autocast(self.device.type, self.dtype)


def make_teacher(graph: Graph, options: TrainOptions, length: int, device: torch.device) -> Teacher:
    """A graph as a teacher, on the device of the student unless options say another.

    With `teacher_dtype` its matrices are kept in that type and it runs under autocast, otherwise as the student does.
    """
    there = device if options.teacher_device is None else choose_device(options.teacher_device)
    narrow = DTYPES.get(options.teacher_dtype)
    dtype = narrow or (DTYPES.get(options.precision) if there.type == device.type else None)
    return Teacher(Predictor(place(graph, there, narrow), options.rows, length), there, dtype)


def require_same_vocabulary(teacher: Graph, student: Graph) -> None:
    """Raise UsageError where the logits of the two do not belong to the same tokens."""
    taught, known = vocabulary_size(teacher), vocabulary_size(student)
    if taught != known or "logits" not in teacher.outputs:
        raise UsageError(
            f"the teacher knows {taught or 'no'} tokens and the student {known}; distillation needs one vocabulary, "
            "so take the unpruned source as the teacher, or set distill=0"
        )
