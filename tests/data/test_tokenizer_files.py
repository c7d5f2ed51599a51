"""A folder without a tokenizer: the message says what works without one."""

from pathlib import Path

import pytest
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from graphprune.data.tokenizer_files import encoding, has_tokenizer, require_tokenizer
from graphprune.data.tokens import encode
from graphprune.data.windows import tokenise
from graphprune.errors import DataError


def test_a_folder_without_one_says_what_works(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no tokenizer; copy tokenizer\.json .*without one, inspect, .* work"):
        require_tokenizer(tmp_path)
    (tmp_path / "vocab.json").touch()
    require_tokenizer(tmp_path)
    assert has_tokenizer(tmp_path)


def test_a_word_that_a_tokenizer_has_no_token_for_is_told() -> None:
    """Damage that shows in some texts alone."""
    words = Tokenizer(WordLevel({"the": 0, "cat": 1, "a": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words)
    assert encode(tokenizer, ["the cat"]).tolist() == [0, 1]
    for use in (lambda: encode(tokenizer, ["the dog"]), lambda: tokenise(tokenizer, ["the dog"])):
        with pytest.raises(DataError, match=r"the tokenizer cannot encode the text: WordLevel error: Missing \[UNK\]"):
            use()
    with pytest.raises(DataError, match="cannot encode"), encoding():
        tokenizer("a dog")
