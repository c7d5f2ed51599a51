"""Sound: examples of the waveforms and spectra that a model takes, by what its configuration says of them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

INPUTS = ("input_features", "input_values")
FRAMES, SAMPLES = 36, 1607  # prime or odd lengths of no other size; frames that halve twice
_BANDS = ("num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim")


class Sound(NamedTuple):
    """An example of sounds, and what varies in its shape."""

    tensor: Tensor
    dynamic: dict[int, str]


def example_sounds(config: "PreTrainedConfig", batch: int, device: torch.device) -> Iterator[Sound]:
    """The forms that sounds may have for a model, the more telling first: a caller tries which of them runs."""
    known = {name: value for name in (*_BANDS, "max_source_positions", "max_length", "spec_size")
             if isinstance(value := getattr(config, name, None), int) and value > 0}  # fmt: skip
    bands = [known[name] * getattr(config, "input_channels", 1) for name in _BANDS if name in known]
    longest = known.get("max_source_positions", 0)
    for band in bands:
        fixed = [(band, 2 * longest), (known.get("max_length", 0), band), (1, known.get("spec_size", 0), band)]
        for shape in (shape for shape in fixed if all(shape)):
            yield Sound(torch.zeros(batch, *shape, device=device), {0: "batch"})
        yield Sound(torch.zeros(batch, FRAMES, band, device=device), {0: "batch", 1: "frames"})
    for samples in (SAMPLES, 10 * SAMPLES):
        yield Sound(torch.zeros(batch, samples, device=device), {0: "batch", 1: "samples"})
