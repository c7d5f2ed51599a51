"""The tokenizer in a GGUF file: what llama.cpp needs to cut a text into the same tokens."""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphprune.errors import ExportError
from graphprune.paths import stays_inside

if TYPE_CHECKING:
    from gguf import GGUFWriter, TokenType

# The expressions that texts are split by before they are merged, and llama.cpp's names for them.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_ENDS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {_WORDS + r"\p{N}{1,3}" + _ENDS: "llama-bpe", _WORDS + r"\p{N}" + _ENDS: "qwen2"}


def add_tokenizer(writer: "GGUFWriter", folder: Path, vocabulary: int, pre: str = "") -> None:
    """Write tokens, merges or scores, and special tokens of the tokenizer in a folder; nothing where there is none.

    `pre` names llama.cpp's way of splitting texts, where it cannot be told from the tokenizer. Raises ExportError for a
    tokenizer that llama.cpp does not have.
    """
    path = folder / "tokenizer.json"
    if not (path.is_file() and stays_inside(path, folder)):
        writer.add_tokenizer_model("no_vocab")
        return
    data = json.loads(path.read_text(encoding="utf-8"))
    if data["model"]["type"] != "BPE":
        raise ExportError(f"gguf is written for tokenizers that merge pairs (BPE), not {data['model']['type']}")
    by_bytes = "ByteLevel" in json.dumps(data.get("pre_tokenizer"))
    if by_bytes:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre or splitting(data["pre_tokenizer"]))
    else:
        if "<0x00>" not in data["model"]["vocab"]:
            raise ExportError("llama.cpp needs a token for every byte, and this tokenizer has none")
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre(pre or "default")
        writer.add_token_scores(scores_of(data, vocabulary))
        add_spaces(writer, data)
    tokens = tokens_of(data, vocabulary)
    writer.add_token_list(tokens)
    writer.add_token_types(types_of(data, tokens))
    from gguf import SpecialVocab

    with quiet():
        SpecialVocab(folder, load_merges=by_bytes, n_vocab=vocabulary).add_to_gguf(writer, quiet=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the package's warnings on templates that it does not read in full: llama.cpp needs what it does read."""
    logger = logging.getLogger("gguf.vocab")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def splitting(pre_tokenizer: Mapping[str, Any]) -> str:
    """llama.cpp's name of how a text is split before it is merged. Raises ExportError."""
    parts = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    splits = [part["pattern"].get("Regex", "") for part in parts if part["type"] == "Split"]
    if not splits:
        return "gpt-2"
    if len(splits) == 1 and splits[0] in _SPLITS:
        return _SPLITS[splits[0]]
    raise ExportError(
        "the tokenizer splits texts in a way that is not known here; name it as llama.cpp does: gguf{pre=...}"
    )


def tokens_of(data: Mapping[str, Any], vocabulary: int) -> list[str]:
    """The text of every id; ids that the tokenizer does not have are named as unused."""
    known = {id: text for text, id in data["model"]["vocab"].items()}
    known |= {entry["id"]: entry["content"] for entry in data.get("added_tokens", ())}
    return [known.get(id, f"[UNUSED{id}]") for id in range(vocabulary)]


def types_of(data: Mapping[str, Any], tokens: list[str]) -> "list[TokenType]":
    import gguf

    kinds = gguf.TokenType
    model = data["model"]
    added = {entry["id"]: entry for entry in data.get("added_tokens", ())}
    result = []
    for id, text in enumerate(tokens):
        if text == model.get("unk_token"):
            result.append(kinds.UNKNOWN)
        elif id in added:
            result.append(kinds.CONTROL if added[id].get("special") else kinds.USER_DEFINED)
        elif len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            result.append(kinds.BYTE)
        else:
            result.append(kinds.NORMAL if text in model["vocab"] else kinds.UNUSED)
    return result


def scores_of(data: Mapping[str, Any], vocabulary: int) -> list[float]:
    """Minus the rank of the first merge that makes a token: llama.cpp merges what has the largest score first."""
    ids, scores = data["model"]["vocab"], [0.0] * vocabulary
    for rank, merge in reversed(list(enumerate(data["model"]["merges"], 1))):
        text = "".join(merge if isinstance(merge, list) else merge.split(" "))
        if text in ids:
            scores[ids[text]] = -float(rank)
    return scores


def add_spaces(writer: "GGUFWriter", data: Mapping[str, Any]) -> None:
    """What happens to spaces before a text is cut."""
    rules = json.dumps([data.get("normalizer"), data.get("pre_tokenizer")], ensure_ascii=False)
    writer.add_add_space_prefix('"prepend": "▁"' in rules or '"prepend_scheme": "always"' in rules)
    writer.add_remove_extra_whitespaces(" {2,}" in rules)
