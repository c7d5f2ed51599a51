"""The check of tokenizers: that of a folder gives the tokens that the source's gives, on texts that tell them apart."""

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from graphprune.artefacts.checks.tokenizer_check import TEXTS as PLAIN
from graphprune.data.tokens import load_tokenizer
from graphprune.errors import DataError, ForeignError, foreign_code
from graphprune.running.comparison import Check

NAME = "tokenizer"
TEXTS = (*PLAIN, "<s>[CLS] special [MASK] <mask> tokens </s>[SEP]<|endoftext|><|im_end|>")
CHAT = ({"role": "user", "content": "Tell me a story."}, {"role": "assistant", "content": "Once upon a time."})

Encodings = Sequence[Sequence[int] | None]


def encodings(folder: Path | None) -> Encodings | None:
    """The tokens of every text with special tokens, and of a conversation; None where there is no tokenizer."""
    try:
        tokenizer = load_tokenizer(folder) if folder is not None else None
    except DataError:
        return None
    if tokenizer is None:
        return None
    calls: list[Callable[[], Any]] = [functools.partial(encode, tokenizer, text) for text in TEXTS]
    if getattr(tokenizer, "chat_template", None):
        calls.append(lambda: tokenizer.apply_chat_template(list(CHAT), return_dict=False))
    return [tokens_of(call) for call in calls]


def encode(tokenizer: Any, text: str) -> Any:
    return tokenizer(text, verbose=False)["input_ids"]


def tokens_of(call: Callable[[], Any]) -> list[int] | None:
    """The tokens that a call gives, None where it fails: a template may refuse a conversation."""
    try:
        with foreign_code():
            return [int(token) for token in call()]
    except ForeignError:
        return None


def check_tokenizer(out: Path, expected: Encodings) -> Check:
    """Compare the tokens that the tokenizer in a folder gives with the expected ones, text by text."""
    found = encodings(out)
    if found is None:
        return Check("huggingface", NAME, float(len(expected)), 0.0, 1.0, False, "it cannot be loaded")
    same = sum(a == b for a, b in itertools.zip_longest(found, expected, fillvalue=()))
    detail = f"{same} of {len(expected)} texts give the source's tokens"
    wrong = max(len(found), len(expected)) - same
    return Check("huggingface", NAME, float(wrong), 0.0, 1.0, wrong == 0, detail)
