"""Checks of tokenizers: runtimes that read an ONNX folder encode texts as transformers does with the whole artefact."""

import importlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from graphprune.artefacts.checks.genai_check import require_known
from graphprune.data.tokens import load_tokenizer
from graphprune.errors import DataError, first_line, foreign
from graphprune.running.comparison import Check

IN_GENAI = "texts in genai"
OTHER_TOKENS = "give it token ids from transformers' tokenizer, or texts that it reads alike"
Encode = Callable[[str], Sequence[int]]
# Where tokenizers differ: spaces at either end and within, what is no letter, more than one byte, special tokens.
TEXTS = (
    "Once upon a time",
    " a space before, and one behind ",
    "two  spaces,\ta tab\n\nand lines",
    "Don't: 1234567 (x_1 == 'y');",
    "naïve café, Zürich – 漢字 и русский",
    "an emoji 😀 of three 👩‍👩‍👧",
    "",
)
GENAI_HAS = ("BPE", "Unigram", "WordPiece")
TURNS = ({"role": "user", "content": "What is 2+2?"},)


def check_tokenizers(out: Path, folder: Path) -> Iterator[Check]:
    """Compare readers of a folder's tokenizer files with transformers' tokenizer of the artefact; none without one."""
    try:
        tokenizer = load_tokenizer(out)
    except DataError:
        return
    texts = list(texts_for(tokenizer))
    wanted = [list(tokenizer(text)["input_ids"]) for text in texts]
    path = folder / "tokenizer.json"
    if path.is_file():
        yield compare_texts(folder.name, "texts by tokenizer.json", read_alone(path), texts, wanted)
    if importlib.util.find_spec("onnxruntime_genai") and (folder / "genai_config.json").is_file():
        yield check_in_genai(folder, texts, wanted)


def check_in_genai(folder: Path, texts: Sequence[str], wanted: Sequence[Sequence[int]]) -> Check:
    """What genai makes of the texts; a tokenizer that it does not have is stated, as are other tokens."""
    name, kind = IN_GENAI, tokenizer_kind(folder)
    if kind not in GENAI_HAS:  # it reads memory that is not its own, and may end the process
        return Check(folder.name, name, 1.0, 0.0, 1.0, True, f"genai has no {kind or 'such'} tokenizer", OTHER_TOKENS)
    try:
        return compare_texts(folder.name, name, read_in_genai(folder), texts, wanted)
    except DataError as error:
        return Check(folder.name, name, 1.0, 0.0, 1.0, True, first_line(error), OTHER_TOKENS)


def tokenizer_kind(folder: Path) -> str:
    """How the tokenizer of a folder makes tokens, as tokenizer.json says it; empty where it does not."""
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return str((data.get("model") or {}).get("type") or "")


def texts_for(tokenizer: Any) -> Iterator[str]:
    """The texts, one with special tokens in it, and a conversation where the tokenizer has a template."""
    yield from TEXTS
    yield "".join(f"{token}word " for token in dict.fromkeys(tokenizer.all_special_tokens))
    if tokenizer.chat_template:
        with foreign(lambda error: DataError(f"the chat template cannot be used: {first_line(error)}")):
            yield tokenizer.apply_chat_template(list(TURNS), tokenize=False, add_generation_prompt=True)


def read_alone(path: Path) -> Encode:
    """As what knows tokenizer.json alone reads a text: transformers.js, and the tokenizers library."""
    import tokenizers

    with foreign(lambda error: DataError(f"{path} cannot be read: {first_line(error)}")):
        inner = tokenizers.Tokenizer.from_file(str(path))
    return lambda text: inner.encode(text).ids


def read_in_genai(folder: Path) -> Encode:
    """As onnxruntime-genai reads a text when it is told to add special tokens, which it leaves out by default."""
    require_known(folder)
    genai: Any = importlib.import_module("onnxruntime_genai")
    with foreign(lambda error: DataError(f"onnxruntime-genai cannot open the tokenizer: {first_line(error)}")):
        tokenizer = genai.Tokenizer(genai.Model(str(folder)))
    tokenizer.update_options(add_special_tokens="true")
    return lambda text: [int(token) for token in tokenizer.encode(text)]


def compare_texts(
    artefact: str, name: str, encode: Encode, texts: Sequence[str], wanted: Sequence[Sequence[int]]
) -> Check:
    """How many texts get the same tokens, and the first that does not; others are stated and refuse nothing."""
    differing = [text for text, ids in zip(texts, wanted, strict=True) if list(encode(text)) != list(ids)]
    detail = f"{len(texts) - len(differing)} of {len(texts)} texts equal"
    if differing:
        detail += f"; not {json.dumps(differing[0], ensure_ascii=False)}"
    advice = OTHER_TOKENS if differing else ""
    return Check(artefact, name, len(differing) / len(texts), 0.0, 1.0, True, detail, advice)
