"""MoPE-CLIP on a small CLIP that is trained here, on drawn shapes and what they show.

    python benchmarks/small_clip.py --out build/small-clip --seeds 3

Draws shapes (pillow), trains a CLIP of two towers of four layers on them until it finds nine of ten of 64 captions,
writes it with its pairs to OUT (kept: a second run takes it from there), and prints: 40 % of the MLP channels removed
by module-wise errors and by others; which two layers go; widths then layers beside layers then widths. Errors are of
the similarity to what the source embeds, as by default, but where it says otherwise. Nothing is trained after a cut.
Recall@1 is among 64 pairs, each of another caption, that are drawn anew for measuring.
"""

import argparse
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from graphprune.analysis.analyse import analyze
from graphprune.analysis.layers import find_layers
from graphprune.budget.budgets import Budget
from graphprune.encoders.embeddings import Named, require_embeddings
from graphprune.encoders.examples import own_reader
from graphprune.encoders.losses import make_loss, with_aims
from graphprune.encoders.pairs import make_pair_batches, read_pairs
from graphprune.encoders.recall import Recall
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan
from graphprune.passes.importance.ablation import Ablation
from graphprune.passes.importance.magnitude import Magnitude
from graphprune.passes.importance.taylor import Taylor
from graphprune.pruning.blocks import find_blocks
from graphprune.pruning.interfaces import view
from graphprune.pruning.rounds import Request, Surroundings, prune
from graphprune.rewriting.apply import apply
from graphprune.running.inputs import Batch
from graphprune.running.loss import Loss, batch_loss, predictions
from graphprune.spec import parse_spec

COLOURS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 70, 220), "yellow": (230, 210, 50)}
SHAPES, PLACES = ("circle", "square", "triangle", "cross"), ("left", "right", "top", "bottom")
CAPTIONS = tuple(itertools.product(COLOURS, SHAPES, PLACES))
SIZE, BATCH, STEPS = 32, 64, 1500
WORDS = ("[PAD]", "[UNK]", "[BOS]", "[EOS]", "a", "at", "the", *COLOURS, *SHAPES, *PLACES)


def draw(caption: tuple[str, str, str], rng: random.Random) -> Image.Image:
    """A picture of a caption: its shape, colour and place, somewhat moved and scaled, on a noisy ground."""
    colour, shape, place = caption
    ground = tuple(rng.randint(0, 70) for _ in range(3))
    image = Image.new("RGB", (SIZE, SIZE), ground)
    pen, radius = ImageDraw.Draw(image), rng.randint(4, 7)
    x, y = {"left": (8, 16), "right": (24, 16), "top": (16, 8), "bottom": (16, 24)}[place]
    x, y = x + rng.randint(-2, 2), y + rng.randint(-2, 2)
    fill = tuple(min(255, max(0, part + rng.randint(-30, 30))) for part in COLOURS[colour])
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        pen.ellipse(box, fill)
    elif shape == "square":
        pen.rectangle(box, fill)
    elif shape == "triangle":
        pen.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill)
    else:
        pen.line((box[0], y, box[2], y), fill, 3)
        pen.line((x, box[1], x, box[3]), fill, 3)
    return image


def text_of(caption: tuple[str, str, str]) -> str:
    return "a {} {} at the {}".format(*caption)


def write_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: id for id, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 2), ("[EOS]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[BOS]", "eos_token": "[EOS]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def write_pairs(folder: Path, count: int, seed: int) -> None:
    """Pictures in the order of captions, again and again, and their records."""
    folder.mkdir(parents=True)
    rng, rows = random.Random(seed), []
    for number in range(count):
        caption = CAPTIONS[number % len(CAPTIONS)]
        draw(caption, rng).save(folder / f"{number}.png")
        rows.append(json.dumps({"file_name": f"{number}.png", "text": text_of(caption)}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")


def make_source(folder: Path) -> None:
    """Train the model and write it with its tokenizer, image processor and pairs."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    texts = {**shape, "vocab_size": len(WORDS), "max_position_embeddings": 12, **ids}
    images = {**shape, "image_size": SIZE, "patch_size": 8}
    model: Any = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=texts, vision_config=images, projection_dim=48)
    )
    write_tokenizer(folder)
    square = {"height": SIZE, "width": SIZE}
    processor = transformers.CLIPImageProcessorPil(size=square, crop_size=square)
    processor.save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer([text_of(caption) for caption in CAPTIONS], return_tensors="pt", padding=True)
    optimizer, rng, began = torch.optim.AdamW(model.parameters(), 1e-3), random.Random(0), time.process_time()
    for step in range(STEPS):
        order = rng.sample(range(len(CAPTIONS)), BATCH)
        pixels = processor([draw(CAPTIONS[i], rng) for i in order], return_tensors="pt")["pixel_values"]
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 50) * (1 - step / STEPS)
        output = model(encoded["input_ids"][order], pixels, encoded["attention_mask"][order], return_loss=True)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        if step % 100 == 99:
            own = torch.arange(BATCH)
            found = (output.logits_per_image.argmax(1) == own).float().mean()
            took = time.process_time() - began
            print(f"step {step + 1}: loss {output.loss.item():.3f}, recall@1 {found:.2f}, {took:.0f} s", flush=True)
            if step > 300 and output.loss < 0.05:
                break
    model.eval().save_pretrained(folder)
    write_pairs(folder / "pairs", 512, 1)
    write_pairs(folder / "measured", 64, 2)


def batches_of(graph: Graph, folder: Path, together: int) -> tuple[Named, ...]:
    pairs, reader = read_pairs(str(folder)), own_reader(graph, str(folder))
    return tuple(
        batch
        for start in range(0, len(pairs), together)
        for batch in [join(make_pair_batches(pairs[start : start + together], reader, graph.inputs))]
    )


def join(batches: Sequence[Named]) -> Named:
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def mean_loss(graph: Graph, batches: Sequence[Batch], loss: Loss) -> float:
    """The mean over all pairs."""
    with torch.no_grad():
        total = sum(float(batch_loss(graph, batch, loss)) * predictions(batch) for batch in batches)
    return total / sum(map(predictions, batches))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/small-clip"))
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    if not (given.out / "model.safetensors").exists():
        given.out.mkdir(parents=True, exist_ok=True)
        make_source(given.out)
    graph = capture(given.out, dtype=torch.float32)
    found = require_embeddings(graph)
    loss, similar = (make_loss(graph, found, kind) for kind in ("contrastive", "similarity"))
    measured = batches_of(graph, given.out / "measured", 64)
    recall = Recall(found)

    def told(name: str, made: Graph) -> None:
        with torch.no_grad():
            values = -mean_loss(made, measured, recall), mean_loss(made, measured, loss)
        print(f"| {name} | {made.parameter_count():,} | {values[0]:.3f} | {values[1]:.3f} |", flush=True)

    print("| | parameters | recall@1 of 64 | contrastive loss |\n|---|---|---|---|")
    told("dense", graph)
    whole = batches_of(graph, given.out / "pairs", 32)
    for seed in range(given.seeds):
        chosen = tuple(with_aims(graph, found, random.Random(seed).sample(whole, 4), seed))
        for name, made in compared(graph, chosen, similar, loss, seed):
            told(f"{name}, seed {seed}", made)


def compared(
    graph: Graph, batches: Sequence[Named], loss: Loss, contrastive: Loss, seed: int
) -> Iterator[tuple[str, Graph]]:
    """The cuts of one draw of 128 pairs."""
    mope, groups = Ablation(), analyze(graph)
    mlp = sum(g.units * 129 for g in groups.prunable() if g.kind == "mlp")

    def cut(
        of: Graph, importance: Any, kinds: tuple[str, ...], target: int, allocation: str = "uniform", by: Loss = loss
    ) -> Graph:
        request = Request(Budget(target), importance, parse_spec("allocation", allocation), kinds)
        return prune(of, request, batches, Surroundings(loss=by, seed=seed)).graph

    wide = graph.parameter_count() - int(0.4 * mlp)
    free = "global{normalize=none}"
    yield "40 % of channels, magnitude", cut(graph, Magnitude(), ("mlp",), wide)
    yield "40 % of channels, Taylor", cut(graph, Taylor(), ("mlp",), wide)
    yield "40 % of channels, MoPE by the contrastive loss", cut(graph, mope, ("mlp",), wide, by=contrastive)
    yield "40 % of channels, MoPE", cut(graph, mope, ("mlp",), wide)
    yield "40 % of channels, MoPE over all layers", cut(graph, mope, ("mlp",), wide, free)
    yield from depths(graph, batches, loss, seed)
    least = graph.parameter_count()
    first, second = least * 3 // 4, least // 2
    units, layers = ("mlp", "attention"), ("layers",)
    yield "half: widths, then layers", cut(cut(graph, mope, units, first, free), mope, layers, second)
    yield "half: layers, then widths", cut(cut(graph, mope, layers, first), mope, units, second, free)


def depths(graph: Graph, batches: Sequence[Named], loss: Loss, seed: int) -> Iterator[tuple[str, Graph]]:
    """Two of eight layers gone, by errors, by the size of their weights, from the ends, and at random."""
    layers = find_layers(analyze(graph))
    scores = Ablation().score_blocks(view(graph, find_blocks(analyze(graph), ["layers"]), batches, loss))
    parameters, rng = graph.parameters(), random.Random(seed)

    def size(layer: Sequence[Any]) -> float:
        scope = (
            layer[0].id.rpartition(".layers.")[0] + f".layers.{layer[0].id.rpartition('.layers.')[2].split('.')[0]}."
        )
        return sum(float(p.detach().square().sum()) for name, p in parameters.items() if name.startswith(scope))

    def without(chosen: Sequence[int]) -> Graph:
        return apply(graph, Plan({}, tuple(branch.id for place in chosen for branch in layers[place])))

    def lowest(value: Callable[[Sequence[Any]], float]) -> Sequence[int]:
        return sorted(range(len(layers)), key=lambda place: value(layers[place]))[:2]

    yield "two layers, MoPE", without(lowest(lambda layer: float(scores[layer[0].id])))
    yield "two layers, magnitude", without(lowest(size))
    yield "two layers, the first of each tower", without((0, len(layers) // 2))
    yield "two layers, the last of each tower", without((len(layers) // 2 - 1, len(layers) - 1))
    for number in range(3):
        yield f"two layers, random {number}", without(rng.sample(range(len(layers)), 2))


if __name__ == "__main__":
    main()
