"""Companion files of a checkpoint: tokenizer, templates, processors and licences, copied byte for byte."""

import shutil
from fnmatch import fnmatch
from pathlib import Path

from graphprune.links import stays_inside

PATTERNS = (
    "tokenizer*.json",
    "tokenizer*.model",
    "tokenizer*.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "vocab-*",
    "merges.txt",
    "spiece.model",
    "sentencepiece*.model",
    "*.tiktoken",
    "chat_template*",
    "*processor_config.json",
    "generation_config.json",
    "LICENSE*",
    "LICENCE*",
    "COPYING*",
    "NOTICE*",
    "USE_POLICY*",
)
FOLDERS = ("additional_chat_templates",)


def copy_companions(source: Path | None, target: Path) -> list[Path]:
    """Copy every companion file that lies in the source folder; returns the new paths, sorted."""
    if source is None or not source.is_dir():
        return []
    named = [p for p in source.iterdir() if p.is_file() and any(fnmatch(p.name, pattern) for pattern in PATTERNS)]
    nested = [p for name in FOLDERS if (source / name).is_dir() for p in (source / name).iterdir() if p.is_file()]
    own = sorted(path for path in named + nested if stays_inside(path, source))
    return [copy_file(path, target / path.relative_to(source)) for path in own]


def copy_file(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(source, target))
