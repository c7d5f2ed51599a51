"""Prompts: tokens without a text of their own that a plan appends to a vocabulary, and that stand before every text."""

from typing import TYPE_CHECKING

from graphprune.analysis.analyse import analyze
from graphprune.data.stream.lead import NO_LEAD, Lead, begins_with
from graphprune.edits.growth import Prompt
from graphprune.errors import UsageError
from graphprune.ir.contract import vocabulary_size
from graphprune.ir.graph import Graph
from graphprune.ir.plan import Edit, Plan
from graphprune.spec import build, split_spec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prompt_edit(graph: Graph, tokens: int) -> Edit:
    """The edit that appends a prompt to the vocabulary of a graph. Raises UsageError where nothing can be appended."""
    group = next((group for group in analyze(graph).groups if group.kind == "vocabulary"), None)
    if group is None or group.locked:
        reason = "there is no table of tokens that can grow" if group is None else f"{group.id} {group.locked}"
        raise UsageError(f"a prompt cannot be appended to this model: {reason}")
    root = graph.lineage.root(group.id)
    if root in graph.lineage.plan.keep:
        raise UsageError(
            "a prompt is appended to a vocabulary that is whole; cut tokens in one compilation, and learn a prompt of "
            "its result in the next"
        )
    return Edit(f"{Prompt.name}{{tokens={tokens}}}", root)


def prompt_size(plan: Plan) -> int:
    """The tokens of the prompts that a plan appends."""
    made = [build(Prompt, Prompt.name, split_spec(e.kind)[1]) for e in plan.edits if e.name == Prompt.name]
    return sum(each.tokens for each in made)


def lead_of(graph: Graph, tokenizer: "PreTrainedTokenizerBase") -> Lead:
    """The lead of a graph with a prompt, by the tokenizer of its source or its own; none without a prompt."""
    tokens, rows = prompt_size(graph.lineage.plan), vocabulary_size(graph)
    if not tokens or rows is None:
        return NO_LEAD
    first = next(iter(begins_with(tokenizer)), None)
    return Lead(tuple(range(rows - tokens, rows)), None if first is None or first >= rows - tokens else first)
