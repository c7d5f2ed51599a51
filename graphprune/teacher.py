"""The teacher: another graph's logits for the same tokens, on a device and in a type of its own."""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from graphprune.errors import UsageError
from graphprune.ir.contract import vocabulary_size
from graphprune.ir.graph import Graph
from graphprune.ir.placement import place
from graphprune.objective import Logits
from graphprune.running.devices import choose_device
from graphprune.train_options import TrainOptions

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
