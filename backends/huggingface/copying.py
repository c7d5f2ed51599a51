"""Companion files of a checkpoint: tokenizer, templates, processors, what pools sentences, and licences, as they are.

Their names come from the classes that read them; patterns of our own add licences, and what classes whose libraries are
not installed would read.
"""

import json
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

from graphprune.backends.attempts import attempt
from graphprune.paths import stays_inside

PATTERNS = (
    "tokenizer*.json",
    "tokenizer*.model",
    "tokenizer*.txt",
    "vocab.*",
    "vocab-*",
    "merges.txt",
    "spiece.model",
    "*.spm",
    "sentencepiece*.model",
    "*.bpe.model",
    "bpe.codes",
    "dict.txt",
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
MODULES = "modules.json"
SENTENCES = (MODULES, "sentence_*_config.json", "config_sentence_transformers.json")
# Code and pickles, which run what they like, and weights of the model itself, of which there are smaller ones now.
NEVER = ("*.py", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack", "*.onnx", "*.gguf", "config.json")
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


def copy_companions(source: Path | None, target: Path) -> list[Path]:
    """Copy every companion file that lies in the source folder; returns the new paths, sorted."""
    if source is None or not source.is_dir():
        return []
    return [copy_file(path, target / path.relative_to(source)) for path in sorted(set(companions(source)))]


def copy_file(source: Path, target: Path) -> Path:
    """Copy one file: every companion goes through here."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(source, target))


def companions(source: Path) -> Iterator[Path]:
    """The companion files in a folder, and in those below it that belong to a tokenizer, a processor or a module."""
    names = class_names(source)
    sentences = SENTENCES if (source / MODULES).is_file() else ()
    yield from matching(source, source, (*names, *PATTERNS, *sentences), (*NEVER, *WEIGHTS))
    for folder in (path for path in source.iterdir() if path.is_dir() and stays_inside(path, source)):
        if folder.name in folder_names() or is_reader(folder):
            yield from matching(folder, source, (*names, *PATTERNS, "*.jinja"), (*NEVER, *WEIGHTS))
    for folder in module_folders(source):
        yield from matching(folder, source, ("config.json",), ())
        yield from matching(folder, source, ("*",), NEVER)


def matching(folder: Path, source: Path, patterns: tuple[str, ...], never: tuple[str, ...]) -> Iterator[Path]:
    """The files in a folder whose names are wanted, and that do not lie outside the source."""
    for path in folder.iterdir():
        wanted = any(fnmatch(path.name, pattern) for pattern in patterns)
        if wanted and path.is_file() and not any(fnmatch(path.name, p) for p in never) and stays_inside(path, source):
            yield path


def is_reader(folder: Path) -> bool:
    """Say whether a folder holds a tokenizer or a processor of its own, as some processors keep theirs."""
    return any(folder.glob("tokenizer_config.json")) or any(folder.glob("*processor_config.json"))


def folder_names() -> tuple[str, ...]:
    from transformers import tokenization_utils_base

    return (constant(tokenization_utils_base, "CHAT_TEMPLATE_DIR"),)


def constant(module: ModuleType, name: str) -> str:
    return str(getattr(module, name))


def class_names(source: Path) -> tuple[str, ...]:
    """The names of the files that transformers' tokenizers and processors read, those of this tokenizer's class too."""
    from transformers import tokenization_utils_base as tokenizers
    from transformers import utils

    processors = ("PROCESSOR", "FEATURE_EXTRACTOR", "IMAGE_PROCESSOR", "VIDEO_PROCESSOR", "AUDIO_TOKENIZER")
    common = ("SPECIAL_TOKENS_MAP", "ADDED_TOKENS", "TOKENIZER_CONFIG", "FULL_TOKENIZER", "CHAT_TEMPLATE")
    return (
        *(constant(utils, f"{name}_NAME") for name in processors),
        constant(utils, "LEGACY_PROCESSOR_CHAT_TEMPLATE_FILE"),
        *(constant(tokenizers, f"{name}_FILE") for name in common),
        *vocabulary_names(source),
    )


def vocabulary_names(source: Path) -> Iterator[str]:
    """The files of the tokenizer's class, and those that its configuration names."""
    import transformers
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    own, model = read_json(source / "tokenizer_config.json"), read_json(source / "config.json")
    yield from (str(v) for v in own.values() if isinstance(v, str) and v == Path(v).name and (source / v).is_file())
    named = (own.get("tokenizer_class"), TOKENIZER_MAPPING_NAMES.get(str(model.get("model_type"))))
    for name in (str(name) for name in named if name):
        for spelled in (name, f"{name}Fast", name.removesuffix("Fast")):
            # A class whose library is not installed raises for whatever it is asked.
            files = attempt(lambda spelled=spelled: getattr(transformers, spelled).vocab_files_names)  # type: ignore[misc]
            yield from map(str, files.values()) if isinstance(files, dict) else ()


def module_folders(source: Path) -> Iterator[Path]:
    """The folders that sentence-transformers reads beside the model: what pools, projects and normalises."""
    listed = read_json(source / MODULES).get("modules", ())
    for module in listed if isinstance(listed, list) else ():
        path = source / str(module.get("path") or "") if isinstance(module, dict) else source
        if path.resolve() != source.resolve() and path.is_dir() and stays_inside(path, source):
            yield path


def read_json(path: Path) -> dict[str, object]:
    """What a file holds; a list as `modules`, nothing where it cannot be read."""
    data = attempt(lambda: json.loads(path.read_text(encoding="utf-8")))
    return data if isinstance(data, dict) else {"modules": data}
