"""What `smollm2` starts from: the model as a folder, made of its GGUF file, and texts to train and to measure on."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from part import Part

from graphprune.data.sources import read_texts

MIXTURE, WIKITEXT = "corpora/redpajama-sample", "corpora/wikitext-2"
HELD_EVERY = 40  # of the texts of the mixture one in so many is only measured on


@dataclass(frozen=True)
class Texts:
    """Files: what is trained on, what is held out of it, and a text of another kind."""

    train: Path
    held: Path
    other: Path


def convert(part: Part) -> str:
    """The model as a folder, made of the GGUF file that came in pieces; kept for later runs."""
    folder = part.work / "smollm2"
    if (folder / "config.json").is_file():
        return str(folder)
    found = sorted([*part.joined.glob("*.gguf"), *part.data.glob("**/*smol*.gguf")])
    if not found:
        raise SystemExit(f"no GGUF file in {part.joined} or {part.data}: bring it in pieces, see docs/gpu.md")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given = {"gguf_file": found[0].name}
    model = AutoModelForCausalLM.from_pretrained(found[0].parent, **given, dtype=torch.float32)
    values = model.config.to_dict()
    for name in ("quantization_config", "_name_or_path"):
        values.pop(name, None)
    plain = type(model)(type(model.config)(**values))
    plain.load_state_dict(model.state_dict())
    plain.tie_weights()
    made = folder.with_name(".smollm2.part")
    shutil.rmtree(made, ignore_errors=True)
    plain.save_pretrained(made)
    AutoTokenizer.from_pretrained(found[0].parent, **given).save_pretrained(made)
    made.rename(folder)
    return str(folder)


def write_texts(part: Part) -> Texts:
    """The mixture, its held-out part and WikiText-2's test; the standard library's text under --tiny."""
    folder = part.work / "texts"
    folder.mkdir(exist_ok=True)
    texts = Texts(folder / "train.txt", folder / "held.txt", folder / "other.txt")
    if part.tiny:
        documents, other = (list(read_texts(spec, limit=30_000)) for spec in ("stdlib", "stdlib:held-out"))
    else:
        files = sorted((part.data / MIXTURE).glob("*.jsonl"))
        lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        documents = [json.loads(line)["text"] for line in lines]
        other = [(part.data / WIKITEXT / "test.txt").read_text(encoding="utf-8")]
    order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(0)).tolist()
    parts: dict[Path, list[str]] = {texts.train: [], texts.held: [], texts.other: other}
    for index, place_of in enumerate(order):
        parts[texts.held if index % HELD_EVERY == 0 else texts.train].append(documents[place_of])
    for path, own in parts.items():
        path.write_text("\n\n".join(own) + "\n", encoding="utf-8")
    return texts
