"""Patches: what is changed in transformers while one of its models is traced."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from unittest import mock

from torch import nn

from graphprune.models.dense_rows import DenseRows, dense_rows
from graphprune.models.even_chunks import EvenChunks
from graphprune.models.recurrent_layers import traceable_recurrences

if TYPE_CHECKING:
    from transformers import PreTrainedModel


Patches = Callable[[], contextlib.AbstractContextManager[DenseRows | None]]


@contextlib.contextmanager
def transformers_patches() -> Iterator[DenseRows]:
    """The reversible patches with which transformers' own exporters make its models traceable, and `DenseRows`.

    Where the latter, which is given, had to replace something, the graph is to be compared with the model.
    """
    import transformers.exporters.exporter_dynamo  # noqa: F401 - registers the patches
    from transformers.exporters import utils

    with only_loaded(utils), utils.apply_patches("dynamo"), whole_windows(), dense_rows() as rows:
        yield rows


@contextlib.contextmanager
def only_loaded(exporters: Any) -> Iterator[None]:
    """Leave out the patches of models whose code is not loaded: to apply one would load it, some seconds in all."""
    registered: dict[str, list[Any]] = getattr(exporters, "_PATCHES", {})
    patches = registered.get("dynamo", [])
    loaded = [patch for patch in patches if not of_other_model(str(patch[0]))]
    with mock.patch.dict(registered, {"dynamo": loaded}) if patches else contextlib.nullcontext():
        yield


def of_other_model(path: str) -> bool:
    """Say whether a dotted path leads into the code of a model of transformers that is not loaded."""
    parts = path.split(".")
    return parts[:2] == ["transformers", "models"] and ".".join(parts[:4]) not in sys.modules


@contextlib.contextmanager
def whole_windows() -> Iterator[None]:
    """Let the layers of a cache that keep a window keep everything: the mask says what is seen.

    They count tokens in Python, which a trace takes for a constant. transformers' own patches do the same since 5.20 or
    so, and mean to stop again.
    """
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    names = ("update", "get_mask_sizes", "get_seq_length")
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.callback(setattr, DynamicSlidingWindowLayer, name, getattr(DynamicSlidingWindowLayer, name))
            setattr(DynamicSlidingWindowLayer, name, getattr(DynamicLayer, name))
        yield


@contextlib.contextmanager
def traceable_experts(model: "PreTrainedModel") -> Iterator[None]:
    """Let mixtures of experts run as batched products, the form whose shapes do not depend on the routing."""
    old = getattr(model.config, "_experts_implementation", None)
    if old is None or not hasattr(model, "set_experts_implementation"):
        yield
        return
    model.set_experts_implementation("batched_mm")
    try:
        yield
    finally:
        model.set_experts_implementation(old)


@contextlib.contextmanager
def tracing_patches(model: nn.Module) -> Iterator[DenseRows]:
    """Everything that is changed in transformers, and put back, while a model is traced."""
    with transformers_patches() as rows, traceable_recurrences(model), EvenChunks():
        yield rows


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' log and progress bars off the terminal while a model is loaded."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
