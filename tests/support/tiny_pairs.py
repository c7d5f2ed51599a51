"""A tiny CLIP as a user has one, with its image processor, and pairs of pictures and texts beside it."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from graphprune.ir.graph import Graph
from graphprune.running.inputs import Batch
from tests.support.tiny_encoder import write_tokenizer

COLOURS = ("red", "green", "low", "barn", "cat", "dog")
SIZE = 16


def write_clip(folder: Path) -> Path:
    """Write the model, and `pairs/metadata.jsonl` with two dozen pairs, and return its folder."""
    count = write_tokenizer(folder)
    ends = {"eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
    text = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {**text, "image_size": SIZE, "patch_size": 8}
    texts = {**text, "vocab_size": count, "max_position_embeddings": 16, **ends}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=texts, vision_config=vision, projection_dim=12)
    model: Any = transformers.CLIPModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    square = {"height": SIZE, "width": SIZE}
    transformers.CLIPImageProcessorPil(size=square, crop_size=square).save_pretrained(folder)
    write_pairs(folder / "pairs", 24)
    return folder


def write_pairs(folder: Path, count: int) -> Path:
    """Write so many pictures of one colour each, with what they show, as `datasets` lays out a folder of images."""
    folder.mkdir()
    rows = []
    for number in range(count):
        colour = COLOURS[number % len(COLOURS)]
        shade = (40 * (number % len(COLOURS)), 10 * number % 256, 255 - 9 * number % 256)
        Image.new("RGB", (SIZE + number % 3, SIZE), shade).save(folder / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "text": f"the {colour} mat{' sat' * (number % 4)}."})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def random_pairs(graph: Graph, count: int, seed: int = 0) -> Batch:
    """Random pictures and texts for the zoo's CLIP, whose last token ends a text."""
    generator = torch.Generator().manual_seed(seed)
    shape = [count, *(int(size) for size in graph.placeholders["pixel_values"].meta["value"].shape[1:])]
    ids = torch.randint(1, 59, (count, 7), generator=generator)
    ids[:, -1] = 60
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(shape, generator=generator),
    }
