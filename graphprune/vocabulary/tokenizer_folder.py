"""Remapping: a folder with the tokenizer and the configurations of a model, for the tokens that are kept."""

import json
import shutil
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from graphprune.data.tokens import load_tokenizer
from graphprune.errors import UsageError
from graphprune.json_data import Json, JsonObject
from graphprune.paths import stays_inside
from graphprune.vocabulary.pieces import merge, model_kind, read_merges
from graphprune.vocabulary.token_ids import Renumbering, integers, renumber_data
from graphprune.vocabulary.tokenizer_data import AddedToken, TokenizerData, ids_by_text, scored_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Other forms of the same vocabulary, which readers would prefer to tokenizer.json or mistake for it.
STALE = ("*.model", "vocab.*", "vocab-*", "merges.txt", "*.tiktoken", "tokenizer.bin")
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.pth", "*.gguf", "*.onnx", "*.onnx.data")
_REMEDY = "save it with a fast tokenizer: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"


def read_tokenizer(folder: Path) -> "tuple[PreTrainedTokenizerBase, TokenizerData]":
    """The tokenizer of a folder, and what its tokenizer.json holds or would hold.

    Raises DataError where there is none, UsageError where it has no such form: its ids cannot be changed.
    """
    tokenizer = load_tokenizer(folder)
    if not getattr(tokenizer, "is_fast", False):
        kind = type(tokenizer).__name__
        raise UsageError(
            f"the tokenizer in {folder} ({kind}) has no tokenizer.json, so its ids cannot change; {_REMEDY}"
        )
    path = folder / "tokenizer.json"
    if not stays_inside(path, folder):
        raise UsageError(
            f"{path} is a link to a place outside the folder, so its tokens are not cut; copy the file there"
        )
    text = path.read_text(encoding="utf-8") if path.is_file() else tokenizer.backend_tokenizer.to_str()
    return tokenizer, json.loads(text)


def renumber_tokenizer(data: TokenizerData, numbers: Renumbering) -> TokenizerData:
    """The content of tokenizer.json with the kept tokens alone, in the old order. Every added token must be kept."""
    new, old, model = numbers.new, data["model"], data["model"].copy()
    if model_kind(data) == "Unigram":
        unknown = old.get("unk_id")
        model["vocab"] = [entry for id, entry in enumerate(scored_texts(old)) if id in new]
        model["unk_id"] = None if unknown is None else new[unknown]
    else:
        kept = ((new[id], text) for text, id in ids_by_text(old).items() if id in new)
        model["vocab"] = {text: id for id, text in sorted(kept)}
    if "merges" in model:
        known = ids_by_text(model)
        model["merges"] = [
            entry
            for entry, pair in zip(old["merges"], read_merges(old), strict=True)
            if pair[0] in known and pair[1] in known and merge(pair, old) in known
        ]
    added: list[AddedToken] = [{**entry, "id": new[entry["id"]]} for entry in data.get("added_tokens") or ()]
    result: TokenizerData = {**data, "added_tokens": added, "model": model}
    rule, padding = data.get("post_processor"), data.get("padding")
    if rule:
        result["post_processor"] = renumber_rule(rule, new)
    if padding:
        result["padding"] = {**padding, "pad_id": new[padding["pad_id"]]}
    return result


def renumber_rule(rule: Json, new: Mapping[int, int]) -> Json:
    """What is put around texts: its ids stand in lists of `ids`, or behind a token as `sep` and `cls`."""
    if isinstance(rule, list):
        return [renumber_rule(item, new) for item in rule]
    if not isinstance(rule, dict):
        return rule
    result = {key: renumber_rule(value, new) for key, value in rule.items()}
    ids = rule.get("ids")
    if isinstance(ids, list):
        result["ids"] = [new[id] for id in integers(ids)]
    for key in ("sep", "cls"):
        match rule.get(key):
            case [text, int(id)]:
                result[key] = [text, new[id]]
    return result


def rule_ids(rule: Json) -> frozenset[int]:
    """The ids that `renumber_rule` renumbers."""
    if isinstance(rule, list):
        return frozenset().union(*map(rule_ids, rule))
    if not isinstance(rule, dict):
        return frozenset()
    pairs = [pair[1:] for pair in (rule.get("sep"), rule.get("cls")) if isinstance(pair, list)]
    own = rule.get("ids")
    named = integers([*pairs, own if isinstance(own, list) else []])
    return frozenset(named).union(*map(rule_ids, rule.values()))


def write_folder(source: Path, target: Path, data: TokenizerData, numbers: Renumbering) -> tuple[str, ...]:
    """Fill a folder with what a model's folder holds beside weights, ids renumbered; returns the names left out.

    `data` is the content of the source's tokenizer.json. Files that name no ids are copies. Raises UsageError where the
    tokenizer, read back, does not have exactly the tokens kept.
    """
    target.mkdir(parents=True, exist_ok=True)
    left_out = []
    for path in sorted(source.iterdir()):
        if any(fnmatch(path.name, pattern) for pattern in STALE):
            left_out.append(path.name)
        else:
            copy_inside(path, target / path.name)
    write_over(target / "tokenizer.json", renumber_tokenizer(data, numbers))
    for name in ("config.json", "generation_config.json"):
        change(target / name, lambda found: renumber_data(found, numbers))
    change(target / "tokenizer_config.json", lambda found: renumber_settings(found, numbers))
    change(target / "added_tokens.json", lambda found: renumber_table(found, numbers))
    check_folder(source, target, numbers)
    return tuple(left_out)


def copy_inside(path: Path, target: Path) -> None:
    """Copy a file or a folder of the source; links to elsewhere stay where they are."""
    if path.name.startswith(".") or not stays_inside(path, path.parent):
        return
    if path.is_dir():
        target.mkdir()
        for inner in path.iterdir():
            copy_inside(inner, target / inner.name)
    elif path.is_file() and not any(fnmatch(path.name, pattern) for pattern in _WEIGHTS):
        shutil.copyfile(path, target)


def change(path: Path, renumbered: Callable[[JsonObject], Mapping[str, object]]) -> None:
    """Replace a JSON file, where there is one, by what becomes of its content."""
    if path.is_file():
        write_over(path, renumbered(json.loads(path.read_text(encoding="utf-8"))))


def write_over(path: Path, data: Mapping[str, object]) -> None:
    """Write a file in place of the source's."""
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def renumber_table(data: JsonObject, numbers: Renumbering) -> dict[str, int]:
    """added_tokens.json: ids by text."""
    return {text: numbers.new[id] for text, id in data.items() if isinstance(id, int)}


def renumber_settings(data: JsonObject, numbers: Renumbering) -> dict[str, object]:
    """tokenizer_config.json: its table of added tokens has ids as keys."""
    result = renumber_data(data, numbers)
    added = data.get("added_tokens_decoder")
    if isinstance(added, dict):
        result["added_tokens_decoder"] = {str(numbers.new[int(id)]): entry for id, entry in added.items()}
    return result


def check_folder(source: Path, target: Path, numbers: Renumbering) -> None:
    old, made = load_tokenizer(source).get_vocab(), load_tokenizer(target).get_vocab()
    wanted = {text: numbers.new[id] for text, id in old.items() if id in numbers.new}
    wrong = next((text for text in {*wanted, *made} if wanted.get(text) != made.get(text)), None)
    if wrong is not None:
        raise UsageError(
            f"the tokenizer cannot be renumbered: read back, {wrong!r} is {made.get(wrong)} in place of "
            f"{wanted.get(wrong)}; {_REMEDY} and try again, or leave vocabulary out"
        )
