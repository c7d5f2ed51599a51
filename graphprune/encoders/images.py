"""Images: files and bytes become what a model takes, by its own image processor."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphprune.errors import DataError, UsageError, first_line, foreign
from graphprune.models.patches import quiet_transformers

if TYPE_CHECKING:
    from PIL.Image import Image

CONFIGS = ("preprocessor_config.json", "processor_config.json")


def load_processor(folder: Path, trusted: bool = False) -> Any:
    """The image processor of a model's folder, without a network. Raises DataError where there is none."""
    if not any((folder / name).is_file() for name in CONFIGS):
        raise DataError(f"{folder} has no image processor; copy preprocessor_config.json into it")
    from transformers import AutoImageProcessor

    with (
        quiet_transformers(),
        foreign(
            lambda error: DataError(f"the image processor in {folder} cannot be loaded: {first_line(error)[:200]}")
        ),
    ):
        return AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)


def open_image(value: object, base: Path, where: str) -> "Image":
    """The image that a record names by its file, as found from the folder `base`, or holds as bytes: RGB.

    Raises DataError for one that is missing or cannot be read, UsageError without pillow.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError("images are read by pillow, which is not installed; pip install pillow") from error
    held = value.get("bytes") if isinstance(value, dict) else None
    path = value.get("path") if isinstance(value, dict) else value
    if not isinstance(held, bytes) and (not isinstance(path, str) or not path):
        raise DataError(f"the image in {where} is {type(value).__name__}, neither the name of a file nor bytes")
    file = None if isinstance(held, bytes) else base / Path(str(path)).expanduser()
    if file is not None and not file.is_file():
        raise DataError(f"{where} names the image {str(path)[:100]}, and {file} is not there; names are from {base}")
    said = f"the image in {where} cannot be read"
    with (
        foreign(lambda error: DataError(f"{said}: {first_line(error)[:200]}")),
        Image.open(file if file is not None else io.BytesIO(held or b"")) as image,
    ):
        return image.convert("RGB")


def as_pixels(processor: Any, images: Sequence["Image"]) -> Tensor:
    """What the model takes for these images: [images, channels, height, width]. Raises DataError."""
    with foreign(lambda error: DataError(f"the image processor cannot take an image: {first_line(error)[:200]}")):
        pixels = processor(images=list(images), return_tensors="pt")["pixel_values"]
        return torch.as_tensor(pixels)
