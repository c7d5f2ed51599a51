"""Cutting tokens: how many stay, and the model and the tokenizer for those alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graphprune.amounts import parse_target
from graphprune.analysis.analyse import analyze
from graphprune.analysis.groups import Group, Groups
from graphprune.budget.budgets import Budget, levels_of
from graphprune.budget.quantities import Quantity
from graphprune.data.sources import read_texts
from graphprune.errors import BudgetError, InvariantError, PlanError, UsageError
from graphprune.ir.contract import vocabulary_size
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Plan, Statistics
from graphprune.rewriting.apply import apply
from graphprune.vocabulary.pieces import Pieces, model_kind
from graphprune.vocabulary.ranking import Ranking, folder_of, required_pieces, vocabulary_group
from graphprune.vocabulary.token_ids import Renumbering, renumber_object
from graphprune.vocabulary.tokenizer_folder import read_tokenizer, write_folder

_COMPARED = 20_000  # bytes of text that both tokenizers read


@dataclass(frozen=True)
class VocabularyCut:
    """What became of a vocabulary: tokens before and after, tokens counted, the share of these that is still there,
    and the files that were left out because they hold the old one."""

    before: int
    after: int
    counted: int
    covered: float | None
    left_out: tuple[str, ...] = ()


def choose_count(ranking: Ranking, group: Group, asked: str | None, fit: int, alone: bool, budget: Budget) -> int:
    """How many tokens stay: what was asked for; else, alone, as many as `fit` the target; else those that the text
    uses, or more where the target allows it. Raises BudgetError below the least."""
    least = ranking.least
    levels = levels_of(group, replace(budget, least={group.id: least}))
    wanted = parse_size(asked, group.units) if asked is not None else fit if alone else max(fit, ranking.used)
    least = int(levels[0])
    if wanted < least:
        reason = f"{wanted:,} tokens are asked for" if asked is not None else f"the target leaves room for {wanted:,}"
        remedy = "raise --vocabulary" if asked is not None else "prune more kinds, or raise the target"
        raise BudgetError(
            f"{reason}, and {least:,} of {group.units:,} is the least with which every text can be read; {remedy}"
        )
    return int(levels[levels <= wanted][-1])


def parse_size(text: str, units: int) -> int:
    """Read --vocabulary: 16000, 16k or a share such as 50%. Raises UsageError, BudgetError."""
    try:
        return parse_target(text, units)
    except BudgetError as error:
        raise BudgetError(f"--vocabulary {text} is more than the {units:,} tokens of this model; lower it") from error
    except UsageError as error:
        raise UsageError(f"--vocabulary {text}: write the number of tokens as 16000, 16k or 50%") from error


def fitting_count(groups: Groups, group: Group, quantity: Quantity, most: int) -> int:
    """The largest number of tokens with which the model costs no more than `most`, 0 where there is none."""
    cost, sizes = quantity.cost(groups), groups.sizes()
    low, high = 0, group.units
    while low < high:
        middle = math.ceil((low + high) / 2)
        low, high = (middle, high) if cost({**sizes, group.id: middle}) <= most else (low, middle - 1)
    return low


def cut_vocabulary(
    graph: Graph, kept: Sequence[int], folder: Path, statistics: Statistics = "survivors"
) -> tuple[Graph, tuple[str, ...]]:
    """The model for these tokens alone, renumbered in their order, and the names of files that were left out.

    `folder` is filled with the tokenizer and the configurations for them, and must last as long as the graph is used.
    Raises PlanError where a text could not be read any more.
    """
    group, source = vocabulary_group(analyze(graph)), graph.source
    files = folder_of(graph)
    tokenizer, data = read_tokenizer(files)
    check_closed(required_pieces(graph, tokenizer, data, group.units), frozenset(kept))
    numbers = Renumbering(tuple(kept), group.units)
    left_out = write_folder(files, folder, data, numbers)
    made = apply(graph, Plan({group.id: tuple(kept)}, (), statistics)) if len(kept) < group.units else graph
    if source.kind == "decoder" and vocabulary_size(made) != len(kept):
        raise UsageError("--prune vocabulary: the logits of this model are not those of its tokens; leave it out")
    renumbered = replace(
        source,
        config=renumber_object(source.config, numbers),
        generation_config=renumber_object(source.generation_config, numbers),
        companions=folder,
    )
    return replace(made, source=renumbered), left_out


def check_closed(pieces: Pieces, kept: frozenset[int]) -> None:
    """Raise PlanError unless every token needed is kept, and with each token the two that it is merged from."""
    texts = {id: text for text, id in pieces.ids.items()}
    missing = next(iter(sorted(pieces.required - kept)), None)
    if missing is not None:
        raise PlanError(
            f"the plan drops the token {texts.get(missing, missing)!r}, without which some text cannot be read"
        )
    for id in sorted(kept & pieces.parts.keys()):
        part = next((part for part in pieces.parts[id] if part not in kept), None)
        if part is not None:
            raise PlanError(
                f"the plan keeps the token {texts[id]!r} and drops {texts[part]!r}, which it is merged from"
            )


def require_same_texts(before: Path, after: Path, spec: str, field: str = "text") -> None:
    """Raise InvariantError where the two tokenizers of a text do not give it back alike; whole words may be unknown."""
    (old, data), (new, _) = read_tokenizer(before), read_tokenizer(after)
    if model_kind(data) == "WordLevel":
        return
    for text in read_texts(spec, field, _COMPARED):
        wanted, found = (each.decode(each(text, verbose=False)["input_ids"]) for each in (old, new))
        if wanted != found:
            raise InvariantError("the renumbered tokenizer reads a text otherwise; please report this tokenizer")
