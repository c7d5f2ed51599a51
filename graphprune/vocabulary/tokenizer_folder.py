"""Remapping: a folder with the tokenizer and the configurations of a model, for the tokens that are kept."""

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from graphprune.data.tokens import load_tokenizer
from graphprune.errors import UsageError
from graphprune.vocabulary.pieces import merge, model_kind, read_merges
from graphprune.vocabulary.token_ids import Renumbering, renumber_data

# Other forms of the same vocabulary, which readers would prefer to tokenizer.json or mistake for it.
STALE = ("*.model", "vocab.*", "vocab-*", "merges.txt", "*.tiktoken", "tokenizer.bin")
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.pth", "*.gguf", "*.onnx", "*.onnx.data")
_REMEDY = "save it with a fast tokenizer: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"


def read_tokenizer(folder: Path) -> tuple[Any, dict[str, Any]]:
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
    text = path.read_text(encoding="utf-8") if path.is_file() else tokenizer.backend_tokenizer.to_str()
    return tokenizer, json.loads(text)


def renumber_tokenizer(data: Mapping[str, Any], numbers: Renumbering) -> dict[str, Any]:
    """The content of tokenizer.json with the kept tokens alone, in the old order. Every added token must be kept."""
    new, model = numbers.new, dict(data["model"])
    if model_kind(data) == "Unigram":
        model["vocab"] = [entry for id, entry in enumerate(model["vocab"]) if id in new]
        model["unk_id"] = None if model.get("unk_id") is None else new[model["unk_id"]]
    else:
        kept = ((new[id], text) for text, id in model["vocab"].items() if id in new)
        model["vocab"] = {text: id for id, text in sorted(kept)}
    if "merges" in model:
        old = data["model"]
        known = model["vocab"]
        model["merges"] = [
            entry
            for entry, pair in zip(old["merges"], read_merges(old), strict=True)
            if pair[0] in known and pair[1] in known and merge(pair, old) in known
        ]
    added = [{**entry, "id": new[entry["id"]]} for entry in data.get("added_tokens") or ()]
    result = {**data, "added_tokens": added, "model": model}
    if data.get("post_processor"):
        result["post_processor"] = renumber_rule(data["post_processor"], new)
    if data.get("padding"):
        result["padding"] = {**data["padding"], "pad_id": new[data["padding"]["pad_id"]]}
    return result


def renumber_rule(rule: Any, new: Mapping[int, int]) -> Any:
    """What is put around texts: its ids stand in lists of `ids`, or behind a token as `sep` and `cls`."""
    if isinstance(rule, list):
        return [renumber_rule(item, new) for item in rule]
    if not isinstance(rule, Mapping):
        return rule
    result = {key: renumber_rule(value, new) for key, value in rule.items()}
    if isinstance(rule.get("ids"), list):
        result["ids"] = [new[id] for id in rule["ids"]]
    for key in ("sep", "cls"):
        if isinstance(rule.get(key), list) and len(rule[key]) == 2:
            result[key] = [rule[key][0], new[rule[key][1]]]
    return result


def rule_ids(rule: Any) -> frozenset[int]:
    """The ids that `renumber_rule` renumbers."""
    if isinstance(rule, list):
        return frozenset().union(*map(rule_ids, rule))
    if not isinstance(rule, Mapping):
        return frozenset()
    pairs = [rule[key][1:] for key in ("sep", "cls") if isinstance(rule.get(key), list)]
    own = [rule["ids"]] if isinstance(rule.get("ids"), list) else []
    return frozenset(id for ids in (*pairs, *own) for id in ids).union(*map(rule_ids, rule.values()))


def write_folder(source: Path, target: Path, data: Mapping[str, Any], numbers: Renumbering) -> tuple[str, ...]:
    """Fill a folder with what a model's folder holds beside weights, ids renumbered; returns the names left out.

    `data` is the content of the source's tokenizer.json. Files that name no ids are links. Raises UsageError where the
    tokenizer, read back, does not have exactly the tokens kept.
    """
    target.mkdir(parents=True, exist_ok=True)
    left_out = []
    for path in sorted(source.iterdir()):
        if any(fnmatch(path.name, pattern) for pattern in STALE):
            left_out.append(path.name)
        elif not any(fnmatch(path.name, pattern) for pattern in _WEIGHTS):
            (target / path.name).symlink_to(path.resolve())
    write_over(target / "tokenizer.json", renumber_tokenizer(data, numbers))
    for name in ("config.json", "generation_config.json"):
        change(target / name, lambda found: renumber_data(found, numbers))
    change(target / "tokenizer_config.json", lambda found: renumber_settings(found, numbers))
    change(target / "added_tokens.json", lambda found: {text: numbers.new[id] for text, id in found.items()})
    check_folder(source, target, numbers)
    return tuple(left_out)


def change(path: Path, renumbered: Any) -> None:
    """Replace a JSON file, where there is one, by what becomes of its content."""
    if path.is_file():
        write_over(path, renumbered(json.loads(path.read_text(encoding="utf-8"))))


def write_over(path: Path, data: Mapping[str, Any]) -> None:
    """Write a file in place of the link to the source's."""
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def renumber_settings(data: Mapping[str, Any], numbers: Renumbering) -> dict[str, Any]:
    """tokenizer_config.json: its table of added tokens has ids as keys."""
    result = renumber_data(data, numbers)
    added = data.get("added_tokens_decoder")
    if isinstance(added, Mapping):
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
