"""What reads the files beside an ONNX model encodes texts as transformers does, or the report names one text."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

from graphprune.artefacts.checks.tokenizer_check import (
    check_in_genai,
    check_tokenizers,
    compare_texts,
    read_alone,
    read_in_genai,
    texts_for,
)
from graphprune.backends.onnx.files import copy_companions
from graphprune.backends.onnx.tokenizer_files import ends, write_tokenizer
from graphprune.errors import ParityError

LETTERS = [chr(code) for code in range(33, 127)]


def byte_level(folder: Path, first: bool) -> None:
    """Bytes as tokens; `first` puts the first token before every text."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *symbols])}
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.add_special_tokens(["<s>", "</s>"])
    if first:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    save(folder, inner, {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"})


def word_pieces(folder: Path) -> None:
    """As BERT's: a first and a last token that are neither the beginning nor the end of a text."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    inner = tokenizers.Tokenizer(models.WordPiece({t: i for i, t in enumerate(vocabulary)}, unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    save(folder, inner, {"tokenizer_class": "BertTokenizer", "cls_token": "[CLS]", "sep_token": "[SEP]"})


def class_decides(folder: Path) -> None:
    """As Llama's class: whether a text begins with a space, or with a first token, is not as the files say."""
    byte_pieces = [f"<0x{value:02X}>" for value in range(256)]
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *byte_pieces, "▁", *LETTERS])}
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    save(folder, inner, {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": False})


def save(folder: Path, inner: tokenizers.Tokenizer, config: dict[str, Any]) -> None:
    folder.mkdir()
    inner.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


MAKERS = {
    "bytes": lambda folder: byte_level(folder, False),
    "first": lambda folder: byte_level(folder, True),
    "pieces": word_pieces,
    "class": class_decides,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_the_files_beside_a_model_encode_as_transformers_does(kind: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "onnx"
    MAKERS[kind](source)
    target.mkdir()
    assert {path.name for path in copy_companions(source, target)} == {"tokenizer.json", "tokenizer_config.json"}
    tokenizer = AutoTokenizer.from_pretrained(source)
    alone, again = read_alone(target / "tokenizer.json"), AutoTokenizer.from_pretrained(target)
    for text in texts_for(tokenizer):
        wanted = tokenizer(text)["input_ids"]
        assert list(alone(text)) == wanted, text
        assert again(text)["input_ids"] == wanted, text
    written = json.loads((target / "tokenizer_config.json").read_text())
    assert bool(written.get("add_bos_token")) == ends(tokenizer)["add_bos_token"] == (kind == "first")
    (check,) = check_tokenizers(source, target)
    assert (check.passed, check.difference) == (True, 0)


def test_a_text_that_is_read_otherwise_is_named(tmp_path: Path) -> None:
    byte_level(tmp_path / "out", True)
    byte_level(tmp_path / "onnx", False)
    (check,) = check_tokenizers(tmp_path / "out", tmp_path / "onnx")
    assert (check.passed, check.difference) == (True, 1.0)
    assert check.detail.startswith('0 of 8 texts equal; not "Once upon a time"')
    same = compare_texts("onnx", "texts", lambda text: [1], ["a", "b"], [[1], [2]])
    assert (same.difference, same.detail) == (0.5, '1 of 2 texts equal; not "b"')


def test_without_a_tokenizer_nothing_is_written_or_compared(tmp_path: Path) -> None:
    assert write_tokenizer(tmp_path, tmp_path) == []
    (tmp_path / "tokenizer.json").write_text("{}")
    assert write_tokenizer(tmp_path, tmp_path) == []
    assert list(check_tokenizers(tmp_path, tmp_path)) == []


def test_genai_opens_no_folder_whose_configuration_is_not_ours(tmp_path: Path) -> None:
    """Also where nothing else of it was opened in genai before."""
    library = {"model": {"decoder": {"session_options": {"custom_ops_library": "evil.so"}}}}
    (tmp_path / "genai_config.json").write_text(json.dumps(library))
    with pytest.raises(ParityError, match="otherwise than graphprune writes it"):
        read_in_genai(tmp_path)


def test_a_tokenizer_that_genai_does_not_have_is_stated_and_not_opened(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordLevel"}}')
    check = check_in_genai(tmp_path, ["a"], [[1]])
    assert check.passed
    assert check.detail == "genai has no WordLevel tokenizer"
