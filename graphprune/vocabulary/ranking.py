"""Ranking: which tokens a text needs, most needed first."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy

from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import Group, Groups
from graphprune.data.stream.tokenising import encode_source
from graphprune.encoders.embeddings import is_text_encoder
from graphprune.errors import UsageError
from graphprune.ir.graph import Graph
from graphprune.progress import Progress, no_progress
from graphprune.vocabulary.pieces import Pieces, read_pieces, removal_order
from graphprune.vocabulary.token_ids import named_ids
from graphprune.vocabulary.tokenizer_data import TokenizerData
from graphprune.vocabulary.tokenizer_folder import read_tokenizer, rule_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COUNTED_BYTES = 100_000_000  # of a text so much is counted: more changes nothing but the time


@dataclass(frozen=True, eq=False)
class Ranking:
    """The tokens of a model by what a text makes of them: `counts` by id, and `order`, in which ids may go, each with
    its count at that time."""

    counts: tuple[int, ...]
    order: tuple[tuple[int, int], ...]

    @property
    def least(self) -> int:
        """The tokens that no text can do without."""
        return len(self.counts) - len(self.order)

    @property
    def used(self) -> int:
        """The tokens that are left when those go that the text has no use for."""
        return len(self.counts) - sum(count <= 0 for _, count in self.order)

    def keep(self, count: int) -> tuple[int, ...]:
        """The ids of so many tokens, ascending."""
        gone = {id for id, _ in self.order[: len(self.counts) - count]}
        return tuple(id for id in range(len(self.counts)) if id not in gone)


def vocabulary_group(groups: Groups) -> Group:
    """The group of the tokens. Raises UsageError, with the reason, where they cannot be cut."""
    found = [group for group in groups.groups if group.kind == "vocabulary"]
    if len(found) != 1:
        raise UsageError("--prune vocabulary: this model has no vocabulary that can be cut; see `graphprune inspect`")
    if found[0].locked:
        raise UsageError(f"--prune vocabulary: {found[0].id} is locked: it {found[0].locked}")
    return found[0]


def rank_tokens(graph: Graph, spec: str, field: str = "text", progress: Progress = no_progress) -> Ranking:
    """Count the tokens of a text, its first 100 MB, and order them. Raises UsageError, DataError."""
    group, folder = vocabulary_group(analyze(graph)), folder_of(graph)
    tokenizer, data = read_tokenizer(folder)
    pieces = required_pieces(graph, tokenizer, data, group.units)
    counts = numpy.zeros(group.units, dtype=numpy.int64)
    for ids, _ in encode_source(tokenizer, spec, field, "all", COUNTED_BYTES):
        counts += numpy.bincount(ids, minlength=group.units)
        progress("counting tokens", int(counts.sum()), 0)
    return Ranking(tuple(counts.tolist()), tuple(removal_order(counts.tolist(), pieces)))


def folder_of(graph: Graph) -> Path:
    known = graph.source.kind == "decoder" or is_text_encoder(graph)
    if not known or graph.source.files is None:
        raise UsageError(
            "--prune vocabulary: cutting tokens needs a language model, or an encoder of texts, in a folder with its "
            "tokenizer"
        )
    return graph.source.files


def required_pieces(graph: Graph, tokenizer: "PreTrainedTokenizerBase", data: TokenizerData, rows: int) -> Pieces:
    """The pieces, with every id required that the configurations or the tokenizer's rules name. Raises UsageError."""
    pieces = read_pieces(data)
    known = {**tokenizer.get_vocab(), **pieces.ids}
    beyond = next((text for text, id in known.items() if id >= rows), None)
    if beyond is not None:
        raise UsageError(
            f"the tokenizer has {beyond!r} with the id {known[beyond]}, and the model has {rows} rows; take the token "
            "out of the tokenizer's files, or give the model a row for it"
        )
    named = {*named_ids(graph.source.config, graph.source.generation_config), *rule_ids(data.get("post_processor"))}
    padding = data.get("padding")
    named |= {padding.get("pad_id", -1) if padding else -1, *tokenizer.all_special_ids}
    named |= set(tokenizer.get_added_vocab().values())
    return replace(pieces, required=pieces.required | {id for id in named if 0 <= id < rows})
