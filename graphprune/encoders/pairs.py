"""Pairs: images and the texts that belong to them, read from records, and batches of both."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphprune.data.readers import Row
from graphprune.data.records import describe
from graphprune.data.sources import has_rows, open_rows
from graphprune.data.splits import split_name
from graphprune.data.tokenizer_files import encoding
from graphprune.encoders.embeddings import Named
from graphprune.encoders.images import as_pixels, open_image
from graphprune.encoders.passages import PLACE
from graphprune.errors import DataError
from graphprune.paths import path_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOGETHER = 32  # pairs of a batch, which are told from each other
_IMAGES = ("image", "file_name", "image_path")


@dataclass(frozen=True, eq=False)
class Pair:
    """A text, what holds its image, and where both stand, for messages. The image is opened when it is needed."""

    text: str
    image: object
    where: str


@dataclass(frozen=True, eq=False)
class Reader:
    """What turns pairs into inputs of a model: its tokenizer, its image processor, the tokens that it has room for."""

    tokenizer: "PreTrainedTokenizerBase"
    processor: Any
    longest: int
    base: Path


def read_pairs(spec: str, field: str = "text", limit: int | None = None) -> tuple[Pair, ...]:
    """The pairs of a file with records, of a folder with `metadata.jsonl`, or of a data set: at most `limit`.

    The text is in `field`; the image in `image`, `file_name` or `image_path`. Raises DataError.
    """
    if not has_rows(spec):
        raise DataError(
            f"{spec} is text alone, and this model takes pairs of an image and a text: give records of both"
        )
    found = list_pairs(spec, field, limit)
    if len(found) < 2:
        raise DataError(
            f"{spec} has {len(found)} pair{'' if len(found) == 1 else 's'}, and pairs are told from each other; give 2 "
            "or more"
        )
    return found


def list_pairs(spec: str, field: str = "text", limit: int | None = None) -> tuple[Pair, ...]:
    """The pairs of a source, however few."""
    return tuple(itertools.islice(pairs_of(open_rows(spec), field), limit))


def pairs_of(rows: Iterator[Row], field: str) -> Iterator[Pair]:
    for row in rows:
        image = next((row.fields[name] for name in _IMAGES if row.fields.get(name) is not None), None)
        text = row.fields.get(field)
        if image is None or not isinstance(text, str):
            missing = (
                "no image: name its file in 'image'"
                if image is None
                else f"no text in {field!r}: name its field with --field"
            )
            raise DataError(f"{row.where} has {missing}; {describe(row)}")
        yield Pair(text, image, row.where)


def base_of(spec: str) -> Path:
    """The folder that names of images are taken from: that of the file of records, or the folder itself."""
    path = path_of(split_name(spec)[0])
    return path if path.is_dir() else path.parent


def make_pair_batches(pairs: Sequence[Pair], reader: Reader, inputs: Sequence[str]) -> tuple[Named, ...]:
    """Batches of pairs, about equally large, of 2 or more; each says which of the pairs its rows are, as `place`.

    Texts of a batch are padded behind their ends to the longest of them. Raises DataError.
    """
    count = math.ceil(len(pairs) / TOGETHER)
    chunks = torch.arange(len(pairs)).tensor_split(max(1, count))
    return tuple(make_pair_batch([pairs[i] for i in chunk.tolist()], chunk, reader, inputs) for chunk in chunks)


def make_pair_batch(pairs: Sequence[Pair], places: Tensor, reader: Reader, inputs: Sequence[str]) -> Named:
    ids = [encode_pair(pair, reader) for pair in pairs]
    padding = reader.tokenizer.pad_token_id
    filler = ids[0][-1] if padding is None else padding
    longest = max(map(len, ids))
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    images = [open_image(pair.image, reader.base, pair.where) for pair in pairs]
    known = {
        "input_ids": torch.tensor([row + [filler] * (longest - len(row)) for row in ids]),
        "attention_mask": mask,
        "token_type_ids": torch.zeros_like(mask),
        "pixel_values": as_pixels(reader.processor, images),
    }
    return {**{name: known[name] for name in inputs}, PLACE: places}


def encode_pair(pair: Pair, reader: Reader) -> list[int]:
    """The tokens of a pair's text. Raises DataError where the model has no positions for them."""
    with encoding():
        found: list[int] = reader.tokenizer(pair.text, verbose=False)["input_ids"]
    if not found:
        raise DataError(f"the text in {pair.where} has no tokens; leave the pair out")
    if len(found) > reader.longest:
        raise DataError(
            f"the text in {pair.where} has {len(found)} tokens, and the model has positions for {reader.longest}; "
            "shorten it"
        )
    return found


def require_inputs(inputs: Sequence[str], name: str) -> None:
    """Raise DataError for a model that takes more than pairs give."""
    known = {"input_ids", "attention_mask", "token_type_ids", "pixel_values"}
    beyond = next((each for each in inputs if each not in known), None)
    if beyond is not None:
        raise DataError(
            f"{name} takes {beyond!r}, which pairs of an image and a text do not give; use --importance magnitude"
        )
