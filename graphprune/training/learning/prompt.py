"""The learner `prompt`: tokens before every text are learned, and nothing else of the model.

Source: arXiv 2104.08691 (prompt tuning), as CPM-2 has it (arXiv 2106.10715). Here the soft prompt is rows that were
appended to the vocabulary, so that a checkpoint, its tokenizer and every export have it as they have other tokens.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, fx, nn

from graphprune.bounds import Count
from graphprune.data.stream.lead import Lead, begins_with
from graphprune.data.tokens import load_tokenizer
from graphprune.errors import UsageError
from graphprune.ir.contract import vocabulary_size
from graphprune.ir.graph import Graph, copy_nodes
from graphprune.ir.plan import Edit
from graphprune.ir.types import TensorType
from graphprune.training.adapters import Trainee
from graphprune.training.learning.learner import Learner, Learning
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
    """The last rows of the table of tokens, which stand before every text; all else is as it was."""

    keeps_moments = False

    def __init__(self, graph: Graph, prompt: tuple[int, ...], start: str, seed: int) -> None:
        folder = graph.source.files
        begun = begins_with(load_tokenizer(folder, graph.source.trusted)) if folder is not None else ()
        self.lead = Lead(prompt, next(iter(begun), None))
        self.table = looked_up(graph)
        whole = graph.tensors()[self.table].detach()
        self.old = nn.Parameter(whole[: -len(prompt)].clone(), requires_grad=False)
        self.mean = whole[-len(prompt) :].clone()
        self.rows = nn.Parameter(self.first(len(prompt), start, seed))
        self.made = self.joined(graph)

    def first(self, count: int, start: str, seed: int) -> Tensor:
        """The rows before the first step [tokens, width]."""
        if start == "mean":
            return self.mean.clone()
        drawn = torch.randint(min(_COMMON, len(self.old)), (count,), generator=torch.Generator().manual_seed(seed))
        return self.old[drawn.to(self.old.device)].clone()

    def joined(self, graph: Graph) -> Graph:
        """The graph in which the table of tokens is made of two parts; all other tensors are shared and frozen."""
        nodes, tensors = copy_nodes(graph.module.graph), dict(graph.tensors())
        shared = {name for name, tensor in tensors.items() if tensor is tensors[self.table]}
        names = f"{self.table}_known", f"{self.table}_prompt"
        for node in [n for n in nodes.find_nodes(op="get_attr") if str(n.target) in shared]:
            join(node, names, (self.old, self.rows))
        frozen = {name: t.detach() for name, t in tensors.items() if name not in shared}
        module = fx.GraphModule({**frozen, names[0]: self.old, names[1]: self.rows}, nodes)
        module.train(graph.module.training)
        return replace(graph, module=module)

    @property
    def trainee(self) -> Trainee:
        return Trainee(self.made, {f"{self.table}_prompt": self.rows}, self.merged, forget=self.forget)

    def merged(self) -> dict[str, Tensor]:
        return {self.table: torch.cat([self.old, self.rows]).detach()}

    @torch.no_grad()
    def forget(self) -> None:
        """Go back to the rows that the edit appends."""
        self.rows.copy_(self.mean)

    def told(self) -> str:
        return f"{self.rows.numel():,} numbers of {len(self.rows)} tokens were learned"


def join(node: fx.Node, names: tuple[str, str], parts: tuple[Tensor, Tensor]) -> None:
    """Let all that reads a table read its two parts, one behind the other."""
    nodes, known = node.graph, {"scope": node.meta.get("scope", "")}
    with nodes.inserting_before(node):
        reads = [nodes.create_node("get_attr", name) for name in names]
        made = nodes.call_function(torch.ops.aten.cat.default, (reads,))
    for read, part in zip(reads, parts, strict=True):
        read.meta |= {"value": TensorType(part.dtype, tuple(part.shape)), **known}
    made.meta |= {"value": node.meta["value"], **known}
    node.replace_all_uses_with(made)
    nodes.erase_node(node)


def looked_up(graph: Graph) -> str:
    """The name of the table in which tokens are looked up. Raises UsageError."""
    for node in graph.nodes:
        if node.target is _EMBEDDING:
            table, ids = node.args[:2]
            if isinstance(ids, fx.Node) and ids.target == "input_ids" and isinstance(table, fx.Node):
                return str(table.target)
    raise UsageError("this model does not look its tokens up in one table, so that a prompt has no rows to learn")
