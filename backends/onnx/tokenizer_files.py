"""Tokenizer files beside an ONNX model, for runtimes that read the files alone and know no tokenizer classes.

transformers may take another normaliser, or another first token, than tokenizer.json says: its class does so. What it
ends up with is written, so that transformers.js and others encode as it does.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from graphprune.errors import ExportError, first_line, foreign
from graphprune.json_data import JsonObject, read_object

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SOURCES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tokenizer_config.json")


def write_tokenizer(source: Path, target: Path) -> list[Path]:
    """Write tokenizer.json as transformers uses it, and whether a text gets a first and a last token.

    Nothing is written for a tokenizer that cannot be loaded, or that has no form in one file.
    """
    tokenizer = open_tokenizer(source)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if tokenizer is None or backend is None:
        return []
    backend.no_padding()  # sentence encoders' files pad every text to one length, which transformers does when asked to
    backend.no_truncation()
    path, config = target / "tokenizer.json", target / "tokenizer_config.json"
    if not same_json(path, str(backend.to_str())):
        path.write_text(backend.to_str(pretty=True), encoding="utf-8")
    known = read_json(config)
    other = {name: value for name, value in ends(tokenizer).items() if bool(known.get(name)) != value}
    if other:
        config.write_text(json.dumps({**known, **other}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return [each for each in (path, config) if each.is_file()]


def open_tokenizer(source: Path) -> "PreTrainedTokenizerBase | None":
    """The tokenizer of a folder as transformers loads it, without code of the folder; None where there is none."""
    if not any((source / name).is_file() for name in _SOURCES):
        return None
    from transformers import AutoTokenizer

    try:
        with foreign(lambda error: ExportError(f"the tokenizer in {source} cannot be loaded: {first_line(error)}")):
            return AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except ExportError:
        return None  # models without a tokenizer that works are exported too; what needs text says so


def ends(tokenizer: "PreTrainedTokenizerBase") -> dict[str, bool]:
    """Whether a text gets the first token, and the last: what onnxruntime-genai reads, true in one place."""
    ids = tokenizer("a")["input_ids"]
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    added = len(ids) > len(plain)
    first = added and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
    last = added and tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id
    return {"add_bos_token": bool(first), "add_eos_token": bool(last)}


def same_json(path: Path, text: str) -> bool:
    """Say whether a file holds this JSON, however it is written."""
    return path.is_file() and read_json(path) == json.loads(text)


def read_json(path: Path) -> JsonObject:
    """What a file holds; empty where there is none, or nothing that can be read."""
    try:
        return read_object(path)
    except (OSError, ValueError):
        return {}
