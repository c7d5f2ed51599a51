"""Decoding step by step in onnxruntime, the cache staying where it was computed."""

from typing import TYPE_CHECKING, final

import numpy as np

from graphprune.errors import GraphpruneError, foreign
from graphprune.running.open_model import Array

if TYPE_CHECKING:
    from onnxruntime import IOBinding, OrtValue

    from graphprune.backends.runtime.runner import OnnxModel


@final
class Decoding:
    """One batch on its way through a decoder.

    Where the model can write the present behind the past, both are one buffer with `room` places, made larger when it
    is full; otherwise the present of a step is handed on as the past of the next. Nothing is copied in either case, but
    when a buffer grows.
    """

    def __init__(self, model: "OnnxModel", batch: int, room: int = 256) -> None:
        self.model = model
        self.batch = batch
        self.room = room
        self.device = "cuda" if model.provider == "CUDAExecutionProvider" else "cpu"
        self.shared = model.shares_cache
        places = room if self.shared else 0
        self.past = [self.place(cache.empty(batch, places)) for cache in model.caches]

    def place(self, array: Array) -> "OrtValue":
        """Put an array where the model computes."""
        from onnxruntime import OrtValue

        return OrtValue.ortvalue_from_numpy(array, self.device, 0)

    def step(self, ids: Array, mask: Array, positions: Array) -> Array:
        """Feed tokens [batch, sequence]; returns the logits of the last, [batch, vocabulary].

        `mask` is [batch, past + sequence]. Raises GraphpruneError on a bad input.
        """
        binding = self.model.session.io_binding()
        last = {"num_logits_to_keep": np.array(1, np.int64)}
        known = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **last}
        for name in known.keys() & set(self.model.inputs):
            binding.bind_cpu_input(name, np.ascontiguousarray(known[name]))
        if self.shared and mask.shape[1] > self.room:
            self.grow(mask.shape[1])
        for cache, value in zip(self.model.caches, self.past, strict=True):
            binding.bind_ortvalue_input(cache.name, value)
            if self.shared:
                binding.bind_ortvalue_output(cache.present, value)
            else:
                binding.bind_output(cache.present, self.device)
        binding.bind_output("logits", "cpu")
        self.run(binding)
        *present, logits = binding.get_outputs()
        if not self.shared:
            self.past = list(present)
        return np.asarray(logits.numpy()[:, -1])

    def run(self, binding: "IOBinding") -> None:
        path = self.model.path
        with foreign(lambda error: GraphpruneError(f"onnxruntime cannot run {path}: {str(error).strip()[:300]}")):
            self.model.session.run_with_iobinding(binding)

    def grow(self, needed: int) -> None:
        """Move to buffers of at least twice the room."""
        self.room = max(needed, 2 * self.room)
        for index, value in enumerate(self.past):
            array = value.numpy()
            longer = np.zeros((*array.shape[:2], self.room, array.shape[3]), array.dtype)
            longer[:, :, : array.shape[2]] = array
            self.past[index] = self.place(longer)
