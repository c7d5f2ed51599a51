"""Tokens that go: every text is read as before, texts of kept tokens become exactly the renumbered ids."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from graphprune.errors import UsageError
from graphprune.vocabulary.pieces import Pieces, letters, model_kind, read_pieces, removal_order
from graphprune.vocabulary.token_ids import Renumbering
from graphprune.vocabulary.tokenizer_folder import renumber_tokenizer

TEXT = (
    "the cat sat on a mat and the dog ran to the red barn while birds sang low songs over green hills, "
    "thinking that the cats were nothing but other animals; naïve façade 日本語 日本 "
) * 3
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


def whole_first() -> Tokenizer:
    """A word that is a token is taken as it is, whatever its merges, as Llama 3's tokenizer does."""
    data = json.loads(byte_level().to_str())
    data["model"]["ignore_merges"] = True
    data["model"]["vocab"]["qzx"] = len(data["model"]["vocab"])
    return Tokenizer.from_str(json.dumps(data))


def byte_fallback() -> Tokenizer:
    """As made from SentencePiece: a merge for every way to split a token in two, and bytes for what has no token."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    rules = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(rules)
    words = TEXT.replace(" ", " ▁").split(" ")
    tokenizer.train_from_iterator(words, trainers.BpeTrainer(vocab_size=480, special_tokens=[*SPECIAL, *BYTES]))
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [entry for entry in data["added_tokens"] if entry["content"] in SPECIAL]
    order = data["model"]["vocab"]
    splits = [
        (order[text], order[text[:cut]], [text[:cut], text[cut:]])
        for text in order
        if text not in (*SPECIAL, *BYTES)
        for cut in range(1, len(text))
        if text[:cut] in order and text[cut:] in order
    ]
    data["model"]["merges"] = [pair for _, _, pair in sorted(splits)]
    return Tokenizer.from_str(json.dumps(data))


def word_ends() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    trainer = trainers.BpeTrainer(vocab_size=160, special_tokens=SPECIAL, end_of_word_suffix="</w>")
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>")
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def unigram_with_bytes() -> Tokenizer:
    data = json.loads(unigram().to_str())
    data["model"]["byte_fallback"] = True
    data["model"]["vocab"] += [[text, 0.0] for text in BYTES]
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    words = sorted(set(TEXT.split()))
    every = [*TEXT.split(), *("".join(words)), " ".join(f"{a}{b}" for a in set(TEXT) for b in set(TEXT))]
    tokenizer.train_from_iterator(every, trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL))
    return tokenizer


MAKERS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level,
    "whole-first": whole_first,
    "byte-fallback": byte_fallback,
    "word-ends": word_ends,
    "unigram": unigram,
    "unigram-bytes": unigram_with_bytes,
    "word-piece": word_piece,
}
TOKENIZERS = {name: make() for name, make in MAKERS.items()}
DATA: dict[str, dict[str, Any]] = {name: json.loads(made.to_str()) for name, made in TOKENIZERS.items()}
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.lists(st.sampled_from(TEXT.split()), max_size=12).map(" ".join),
    st.text(st.sampled_from(sorted(set(TEXT))), max_size=40),
)


def rows_of(name: str) -> int:
    return max(read_pieces(DATA[name]).ids.values()) + 1


def cut(name: str, seed: int, share: float) -> tuple[Tokenizer, Renumbering]:
    """A tokenizer that lost a share of what may go, by random counts."""
    rows, draw = rows_of(name), random.Random(seed)
    order = removal_order([draw.randrange(50) for _ in range(rows)], read_pieces(DATA[name]))
    gone = {id for id, _ in order[: round(share * len(order))]}
    numbers = Renumbering(tuple(id for id in range(rows) if id not in gone), rows)
    return Tokenizer.from_str(json.dumps(renumber_tokenizer(DATA[name], numbers))), numbers


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=150)
@given(text=TEXTS, seed=st.integers(0, 5), share=st.sampled_from([0.1, 0.5, 0.9, 1.0]))
def test_every_text_is_read_as_before(name: str, text: str, seed: int, share: float) -> None:
    old = TOKENIZERS[name]
    new, numbers = cut(name, seed, share)
    before, after = old.encode(text).ids, new.encode(text).ids
    assert new.decode(after) == old.decode(before)
    back = [numbers.kept[id] for id in after]
    assert old.decode(back) == old.decode(before), "the ids that are left mean what they meant"
    if set(before) <= numbers.new.keys():
        assert back == before


@pytest.mark.parametrize("name", MAKERS)
def test_a_tokenizer_that_lost_much_is_dense_and_in_the_old_order(name: str) -> None:
    new, numbers = cut(name, 0, 0.9)
    old_texts = {id: text for text, id in TOKENIZERS[name].get_vocab().items()}
    vocabulary = new.get_vocab()
    assert {id: text for text, id in vocabulary.items()} == {n: old_texts[o] for o, n in numbers.new.items()}
    assert sorted(vocabulary.values()) == list(range(len(numbers.kept)))
    assert len(numbers.kept) < rows_of(name)


@pytest.mark.parametrize("name", MAKERS)
def test_texts_of_kept_tokens_alone_occur(name: str) -> None:
    """What `test_every_text_is_read_as_before` says of them is not said of nothing."""
    _, numbers = cut(name, 1, 0.5)
    old = TOKENIZERS[name]
    words = [word for word in TEXT.split() if set(old.encode(word).ids) <= numbers.new.keys()]
    assert len(words) > 10
    assert any(len(old.encode(word, add_special_tokens=False).ids) < len(word) for word in words), "and merged ones"


def test_what_is_left_is_closed_under_merges_after_any_number() -> None:
    pieces = read_pieces(DATA["byte-fallback"])
    counts = [id % 7 for id in range(rows_of("byte-fallback"))]
    kept = set(range(len(counts)))
    for id, _ in removal_order(counts, pieces):
        kept.discard(id)
        assert all(set(pieces.parts.get(other, ())) <= kept for other in kept)
    assert kept == pieces.required | {p for id in pieces.required for p in pieces.parts.get(id, ())}


def test_the_rarest_goes_first_and_counts_for_its_parts() -> None:
    pieces = Pieces(
        {text: id for id, text in enumerate(["a", "b", "ab", "aba"])}, {2: (0, 1), 3: (2, 0)}, frozenset({0})
    )
    assert removal_order([5, 1, 4, 2, 0], pieces) == [(4, -1), (3, 2), (2, 6), (1, 7)]


def test_a_token_keeps_the_symbols_that_it_really_goes_through() -> None:
    """Of several merges into `abc` the strongest is not the one that is reached."""
    merges = [["ab", "c"], ["b", "c"], ["a", "b"], ["a", "bc"]]
    model = {"type": "BPE", "vocab": {text: id for id, text in enumerate(["a", "b", "c", "ab", "bc", "abc"])}}
    data = {**DATA["word-ends"], "added_tokens": [], "pre_tokenizer": None, "decoder": None}
    data["model"] = {**model, "merges": merges, "unk_token": None}
    pieces = read_pieces(data)
    assert pieces.parts[5] == (0, 4)
    assert removal_order([0, 0, 0, 0, 0, 9], pieces) == [(3, 0), (5, 9), (4, 9)]
    new = Tokenizer.from_str(json.dumps(renumber_tokenizer(data, Renumbering((0, 1, 2, 4, 5), 6))))
    assert new.encode("abc").ids == [4]


def test_rules_around_the_model_have_new_numbers() -> None:
    new, numbers = cut("byte-level", 0, 1.0)
    assert new.encode("").ids == [numbers.new[1], numbers.new[2]]
    bert = {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]}
    data = {**DATA["byte-level"], "post_processor": {"type": "Sequence", "processors": [bert]}}
    data["padding"] = {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_id": 7,
        "pad_type_id": 0,
        "pad_token": "x",
    }
    found = renumber_tokenizer(data, Renumbering((1, 2, 0, 7), 400))
    assert found["post_processor"]["processors"][0] == {**bert, "sep": ["</s>", 1], "cls": ["<s>", 0]}
    assert found["padding"]["pad_id"] == 3


def test_symbols_of_continued_and_ended_words() -> None:
    assert letters("##abc", {"continuing_subword_prefix": "##"}) == ["##a", "##b", "##c"]
    assert letters("abc", {"continuing_subword_prefix": "##"}) == ["a", "##b", "##c"]
    assert letters("ab</w>", {"end_of_word_suffix": "</w>"}) == ["a", "b</w>"]


def test_whole_words_need_an_unknown_token_and_other_kinds_are_refused() -> None:
    words = {"model": {"type": "WordLevel", "vocab": {"a": 0, "<unk>": 1}, "unk_token": "<unk>"}}
    assert read_pieces(words).required == {1}
    words["model"]["unk_token"] = "none"
    with pytest.raises(UsageError, match="no unknown token"):
        read_pieces(words)
    with pytest.raises(UsageError, match="of type Other cannot be cut; it must be one of BPE"):
        read_pieces({"model": {"type": "Other"}})
    assert model_kind({"model": {"merges": []}}) == "BPE"
