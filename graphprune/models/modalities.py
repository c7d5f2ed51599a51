"""Modalities: what a class takes besides text, and which of it a contract leaves out."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The arguments that images, videos and sounds are given as; a video may be given as images.
ARGUMENTS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "image": ("pixel_values",),
    "video": ("pixel_values_videos", "pixel_values"),
    "audio": ("input_features", "input_values", "audio_values"),
})  # fmt: skip
PLURALS: Mapping[str, str] = MappingProxyType({"image": "images", "video": "videos", "audio": "sounds"})


def left_out(model: "PreTrainedModel", inputs: Collection[str]) -> tuple[str, ...]:
    """The kinds of input that the class takes and a contract with these inputs does not: `image`, `audio`."""
    said = getattr(type(model), "input_modalities", None) or ()
    kinds = (said,) if isinstance(said, str) else tuple(said)
    return tuple(kind for kind in kinds if kind in ARGUMENTS and not set(ARGUMENTS[kind]) & set(inputs))


def count_parameters(model: "PreTrainedModel") -> int:
    """The parameters of a model, a tied one counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def describe_part(architecture: str, kinds: Collection[str], captured: int | None, whole: int) -> str:
    """What a graph is of, where the class takes more than text; how much of it, where it has been captured."""
    others = " and ".join(PLURALS[kind] for kind in kinds)
    share = f"a part of its {whole:,} parameters" if captured is None else f"{captured:,} of {whole:,} parameters"
    return (
        f"{architecture} takes {others} besides text, and models of both are not supported as a whole: what is "
        f"captured is its text model alone, {share}, which takes no {others}"
    )
