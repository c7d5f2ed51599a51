"""Pieces: what a tokenizer's tokens are made of, and which of them every text needs. Read off tokenizer.json."""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from graphprune.errors import UsageError
from graphprune.json_data import Json
from graphprune.vocabulary.tokenizer_data import TokenizerData, TokenizerModel, ids_by_text, scored_texts

Pair = tuple[str, str]
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


@dataclass(frozen=True)
class Pieces:
    """The tokens of a tokenizer: ids by text, the ids of the two parts that a token is merged from, and those that
    stay because some text would be read otherwise without them."""

    ids: Mapping[str, int]
    parts: Mapping[int, tuple[int, ...]]
    required: frozenset[int]


def read_pieces(data: TokenizerData) -> Pieces:
    """The pieces of the content of a tokenizer.json. Raises UsageError for a kind of tokenizer that is not known."""
    readers = {"BPE": merged_pieces, "Unigram": scored_pieces, "WordPiece": greedy_pieces, "WordLevel": whole_words}
    kind = model_kind(data)
    if kind not in readers:
        raise UsageError(
            f"the vocabulary of a tokenizer of type {kind} cannot be cut; it must be one of {', '.join(readers)}"
        )
    added = {entry["content"]: int(entry["id"]) for entry in data.get("added_tokens") or ()}
    found = readers[kind](data, frozenset(added))
    unknown = data["model"].get("unk_token")
    own = [found.ids[unknown]] if unknown is not None and unknown in found.ids else []
    return Pieces({**found.ids, **added}, found.parts, found.required | {*added.values(), *own})


def model_kind(data: TokenizerData) -> str:
    """BPE, Unigram, WordPiece or WordLevel; old files do not name the first."""
    model = data["model"]
    return str(model.get("type") or ("BPE" if "merges" in model else "unknown"))


def merged_pieces(data: TokenizerData, added: frozenset[str]) -> Pieces:
    """BPE. A token needs the symbols that it goes through when it is merged by itself: within any text they are the
    same, since merges across its ends never happened. Symbols that nothing merges into stay, or the bytes that stand
    for them."""
    model = data["model"]
    ids, pairs = ids_by_text(model), read_merges(model)
    makers: dict[str, list[Pair]] = {}
    for pair in pairs:
        makers.setdefault(merge(pair, model), []).append(pair)
    ranks = {pair: rank for rank, pair in reversed(list(enumerate(pairs)))}
    parts = {}
    for text, id in ids.items():
        if text in makers and text not in added:
            pair = makers[text][0] if len(makers[text]) == 1 else last_merge(text, model, ranks) or makers[text][0]
            parts[id] = tuple(dict.fromkeys(ids[part] for part in pair))
    base = {text for text in ids if text not in makers and len(letters(text, model)) == 1}
    needed = spelled_by_bytes(data, base) if has_bytes(model, ids) else base
    return Pieces(ids, parts, frozenset(ids[text] for text in needed))


def read_merges(model: TokenizerModel) -> list[Pair]:
    """The merges, strongest first; older files write a pair as one text."""
    return [read_pair(entry) for entry in model["merges"]]


def read_pair(entry: str | Sequence[str]) -> Pair:
    left, right = entry.split(" ") if isinstance(entry, str) else entry
    return left, right


def merge(pair: Pair, model: TokenizerModel) -> str:
    """What two symbols are merged into: the mark of a continued word stands at the front alone."""
    prefix = model.get("continuing_subword_prefix") or ""
    return pair[0] + pair[1].removeprefix(prefix)


def letters(text: str, model: TokenizerModel) -> list[str]:
    """The symbols that a token's text begins as."""
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    inside = bool(prefix) and text.startswith(prefix) and text != prefix
    ending = bool(suffix) and text.endswith(suffix) and text != suffix
    body = text.removeprefix(prefix) if inside else text
    symbols = list(body.removesuffix(suffix) if ending else body)
    marked = [prefix + symbol if inside or place else symbol for place, symbol in enumerate(symbols)]
    return [*marked[:-1], marked[-1] + suffix] if ending and marked else marked


def last_merge(text: str, model: TokenizerModel, ranks: Mapping[Pair, int]) -> Pair | None:
    """The pair that a text becomes one token by, when it is merged as BPE does; None where it does not become one."""
    symbols = letters(text, model)
    while len(symbols) > 2:
        pairs = [(ranks.get(pair, len(ranks)), place) for place, pair in enumerate(pairwise(symbols))]
        rank, place = min(pairs)
        if rank == len(ranks):
            return None
        symbols[place : place + 2] = [merge((symbols[place], symbols[place + 1]), model)]
    pair = tuple(symbols)
    return pair if len(pair) == 2 and pair in ranks else None


def scored_pieces(data: TokenizerData, added: frozenset[str]) -> Pieces:
    """Unigram. Single characters stay, or the bytes that stand for them, and the piece with the lowest score, by which
    the library scores what it does not know."""
    model = data["model"]
    ids, scored = ids_by_text(model), scored_texts(model)
    plain = [text for text in ids if text not in added]
    single = {text for text in plain if len(text) == 1}
    if has_bytes(model, ids):
        needed = spelled_by_bytes(data, single)
    else:
        needed = single | {text for text in plain if any(letter not in single for letter in text)}
    lowest = min(range(len(scored)), key=lambda id: float(scored[id][1]))
    unknown = [id for id in (model.get("unk_id"),) if id is not None]
    return Pieces(ids, {}, frozenset({*(ids[text] for text in needed), lowest, *unknown}))


def greedy_pieces(data: TokenizerData, added: frozenset[str]) -> Pieces:
    """WordPiece. Single characters stay, at the start of a word and within, and what has one that lacks either."""
    model = data["model"]
    ids, prefix = ids_by_text(model), model.get("continuing_subword_prefix") or ""

    def body(text: str) -> str:
        return text.removeprefix(prefix) if text != prefix else text

    def spelled(text: str) -> bool:
        first = prefix if text.startswith(prefix) and text != prefix else ""
        return all((prefix if place else first) + letter in ids for place, letter in enumerate(body(text)))

    needed = {text for text in ids if text not in added and (len(body(text)) == 1 or not spelled(text))}
    return Pieces(ids, {}, frozenset(ids[text] for text in needed))


def whole_words(data: TokenizerData, added: frozenset[str]) -> Pieces:
    """WordLevel. A word that goes is read as the unknown token, so there must be one."""
    model = data["model"]
    if model.get("unk_token") not in model["vocab"]:
        raise UsageError("the tokenizer knows whole words and has no unknown token: no word of it can be left out")
    return Pieces(ids_by_text(model), {}, frozenset())


def has_bytes(model: TokenizerModel, ids: Mapping[str, int]) -> bool:
    """Whether a character without a token is spelled as bytes."""
    return bool(model.get("byte_fallback")) and all(text in ids for text in _BYTES)


def spelled_by_bytes(data: TokenizerData, single: set[str]) -> set[str]:
    """What stays where bytes spell the rest: the bytes, and single characters that the rules around the model name,
    such as the one that stands for a space and is turned back into it."""
    rules = (data.get("normalizer"), data.get("pre_tokenizer"), data.get("decoder"))
    named = set("".join(text for rule in rules for text in texts_in(rule)))
    return {*_BYTES, *(single & named)}


def texts_in(rule: Json, key: str = "") -> Iterator[str]:
    """Every text in a rule of a tokenizer, but for names of types and packed tables."""
    if isinstance(rule, str) and key not in ("type", "precompiled_charsmap"):
        yield rule
    elif isinstance(rule, dict):
        for name, value in rule.items():
            yield from texts_in(value, name)
    elif isinstance(rule, list):
        for value in rule:
            yield from texts_in(value)


def removal_order(counts: Sequence[int], pieces: Pieces) -> list[tuple[int, int]]:
    """Ids in the order in which they may go, each with its count at that time; what no other token is merged from is
    free to go, the rarest first. The count of one that went counts for its parts. Rows without a token go first.

    Whatever is left after any number of them is closed under merges.
    """
    left, known = list(counts), frozenset(pieces.ids.values())
    users = [0] * len(left)
    for parts in pieces.parts.values():
        for part in parts:
            users[part] += 1
    queue = [
        (left[id] if id in known else -1, -id)
        for id in range(len(left))
        if id not in pieces.required and users[id] == 0
    ]
    heapq.heapify(queue)
    order = []
    while queue:
        count, negative = heapq.heappop(queue)
        order.append((-negative, count))
        for part in pieces.parts.get(-negative, ()):
            left[part] += max(count, 0)
            users[part] -= 1
            if users[part] == 0 and part not in pieces.required:
                heapq.heappush(queue, (left[part], -part))
    return order
