"""The learner `prompt`: tokens before every text are learned, and nothing else of the model.

Source: arXiv 2104.08691 (prompt tuning), as CPM-2 has it (arXiv 2106.10715). Here the soft prompt is rows that were
appended to the vocabulary, so that a checkpoint, its tokenizer and every export have it as they have other tokens.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, fx

from graphprune.bounds import Count
from graphprune.data.stream.lead import Lead, begins_with
from graphprune.data.tokens import load_tokenizer
from graphprune.errors import UsageError
from graphprune.ir.contract import vocabulary_size
from graphprune.ir.graph import Graph
from graphprune.ir.operators import index_origin
from graphprune.ir.plan import Edit
from graphprune.training.adapters import Trainee, whole
from graphprune.training.learning.learner import Learner, Learning, Rate
from graphprune.training.options import TrainOptions
from graphprune.vocabulary.prompt_tokens import prompted_source
from graphprune.vocabulary.prompts import prompt_edit, prompt_size

_EMBEDDING = torch.ops.aten.embedding.default
_COMMON = 5000  # tokenizers that merge have their commonest tokens first; the paper draws from as many


@final
@dataclass(frozen=True)
class Prompt(Learner):
    """Learn `tokens` rows that stand before every text; at first each is a common word's, or the `mean` of all rows.

    Source: arXiv 2104.08691.
    """

    name: ClassVar[str] = "prompt"
    tokens: Count = 20
    start: Literal["words", "mean"] = "words"

    @property
    def adds_tokens(self) -> int:
        return self.tokens

    def edits(self, graph: Graph) -> tuple[Edit, ...]:
        if prompt_size(graph.lineage.plan):
            raise UsageError("this model has a prompt already, learned by an earlier pass; give one of them")
        edit, rows = prompt_edit(graph, self.tokens), vocabulary_size(graph)
        looked_up(graph)
        if graph.source.companions is not None:
            raise UsageError("cut tokens in one compilation, and learn a prompt of its result in the next")
        if rows is not None:
            with tempfile.TemporaryDirectory(prefix="graphprune-") as name:  # a mistake is told before the training
                prompted_source(graph.source, rows, self.tokens, Path(name))
        return (edit,)

    def begin(self, graph: Graph, options: TrainOptions) -> Learning:
        rows = vocabulary_size(graph)
        if prompt_size(graph.lineage.plan) != self.tokens or rows is None:
            raise UsageError(
                f"the model has no prompt of {self.tokens} tokens to learn; make the learner's edits first"
            )
        return Prompted(graph, tuple(range(rows - self.tokens, rows)), self.start, options.seed)


@final
class Prompted(Learning):
    """The last rows of the table of tokens, which stand before every text; all else is as it was.

    The table is one tensor, as it is where it is used, and the gradient of its other rows is put to zero: with moments
    of zero no step changes them.
    """

    keeps_moments = False

    def __init__(self, graph: Graph, prompt: tuple[int, ...], start: str, seed: int) -> None:
        folder = graph.source.files
        begun = begins_with(load_tokenizer(folder, graph.source.trusted)) if folder is not None else ()
        self.lead = Lead(prompt, next(iter(begun), None))
        self.name, self.made = looked_up(graph), whole(graph)
        self.table = self.made.trainable[self.name]
        for tensor in self.made.trainable.values():
            tensor.requires_grad_(tensor is self.table)
        self.given = graph.tensors()[self.name].detach()
        with torch.no_grad():
            self.table[-len(prompt) :] = self.first(len(prompt), start, seed)

    def first(self, count: int, start: str, seed: int) -> Tensor:
        """The rows before the first step [tokens, width]."""
        if start == "mean":
            return self.given[-count:]
        known = min(_COMMON, len(self.given) - count)
        drawn = torch.randint(known, (count,), generator=torch.Generator().manual_seed(seed))
        return self.given[drawn.to(self.given.device)]

    @property
    def trainee(self) -> Trainee:
        return Trainee(self.made.graph, {self.name: self.table}, self.merged, forget=self.forget)

    def rates(self) -> Mapping[str, Rate]:
        """The rows are no weights: they are neither decayed nor clipped with others."""
        return {self.name: Rate()}

    def after_backward(self, step: int) -> None:
        if self.table.grad is not None:
            self.table.grad[: -len(self.lead.prompt)] = 0

    def merged(self) -> dict[str, Tensor]:
        count = len(self.lead.prompt)
        return {self.name: torch.cat([self.given[:-count], self.table.detach()[-count:]])}

    @torch.no_grad()
    def forget(self) -> None:
        """Go back to the rows that the edit appends."""
        self.table.copy_(self.given)

    def told(self) -> str:
        count = len(self.lead.prompt)
        return f"{count * self.table.shape[1]:,} numbers of {count} tokens were learned"


def looked_up(graph: Graph) -> str:
    """The name of the table in which tokens are looked up. Raises UsageError."""
    for node in graph.nodes:
        if node.target is _EMBEDDING:
            table, ids = node.args[:2]
            own = isinstance(ids, fx.Node) and index_origin(ids).target == "input_ids"
            if own and isinstance(table, fx.Node) and table.op == "get_attr":
                return first_name(graph, str(table.target))
    raise UsageError("this model does not look its tokens up in one table, so that a prompt has no rows to learn")


def first_name(graph: Graph, name: str) -> str:
    """The name under which a tensor of several is counted among the parameters."""
    tensor = graph.tensors()[name]
    return next(each for each, known in graph.parameters().items() if known is tensor)
