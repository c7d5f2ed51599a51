"""What tokenizer.json holds, as far as a cut reads it."""

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

from graphprune.json_data import Json


class AddedToken(TypedDict):
    """A token that stands beside the model's own."""

    id: int
    content: str


class TokenizerModel(TypedDict):
    """The model: `vocab` gives ids by text, or for Unigram a text and its score for each id."""

    vocab: dict[str, int] | list[tuple[str, float]]
    type: NotRequired[str | None]
    merges: NotRequired[Sequence[str | Sequence[str]]]
    continuing_subword_prefix: NotRequired[str | None]
    end_of_word_suffix: NotRequired[str | None]
    unk_token: NotRequired[str | None]
    unk_id: NotRequired[int | None]
    byte_fallback: NotRequired[bool | None]


class Padding(TypedDict):
    """How texts are made equally long."""

    pad_id: int


class TokenizerData(TypedDict):
    """The content of a tokenizer.json; rules around the model are of any shape."""

    model: TokenizerModel
    added_tokens: NotRequired[Sequence[AddedToken] | None]
    normalizer: NotRequired[Json]
    pre_tokenizer: NotRequired[Json]
    post_processor: NotRequired[Json]
    decoder: NotRequired[Json]
    padding: NotRequired[Padding | None]


def ids_by_text(model: TokenizerModel) -> Mapping[str, int]:
    """The ids of the model's own tokens."""
    vocab = model["vocab"]
    return vocab if isinstance(vocab, dict) else {text: id for id, (text, _) in enumerate(vocab)}


def scored_texts(model: TokenizerModel) -> Sequence[tuple[str, float]]:
    """The tokens of a Unigram model with their scores, by id."""
    vocab = model["vocab"]
    return [] if isinstance(vocab, dict) else vocab
