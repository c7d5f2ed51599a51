"""The IR: one functional, flat ATen graph with its parameters, the source it came from and what was done to it."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, fx

from graphprune.ir.cleanups import Cleanup
from graphprune.ir.lineage import Lineage, Step

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig

Found = TypeVar("Found")


KINDS = ("decoder", "seq2seq", "encoder", "module")  # of sources: what decides the contract


@dataclass(frozen=True)
class Source:
    """Where a graph came from: what the backends need to write a complete checkpoint.

    `config` is the transformers configuration object, or None for a plain module. `folder` holds tokenizer, chat
    template and licence files. `companions` is another folder with these files, where they had to change since tokens
    were cut. `kind` is `decoder` (cache contract), `seq2seq`, `encoder` or `module`. `dtype` is the type that the
    source stores its weights in, which may be narrower than the graph's. `derived_cache` says that the graph's cache
    was derived from it, since the class has none that could be used; `changes` names tensors that the class itself
    changes when it runs; `dense_rows` names the calls that picked rows by value and were traced with all rows. They
    decide how a model is compared with its graph. `trusted` says that the user lets code run that the folder brings.
    `unread` names tensors of the checkpoint that the class does not read. `left_out` are the kinds of input (`image`,
    `audio`) that the class takes and the graph does not, and `whole` is the number of parameters of the whole model
    where there are any.
    """

    kind: str = "module"
    name: str = ""
    architecture: str = ""
    config: "PreTrainedConfig | None" = None
    generation_config: "GenerationConfig | None" = None
    folder: Path | None = None
    revision: str | None = None
    file_hashes: Mapping[str, str] = field(default_factory=dict)
    dtype: torch.dtype | None = None
    companions: Path | None = None
    derived_cache: bool = False
    changes: tuple[str, ...] = ()
    dense_rows: tuple[str, ...] = ()
    trusted: bool = False
    unread: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    whole: int = 0

    @property
    def title(self) -> str:
        """What others may call it: the hub's id, or the last name of its folder, which does not say where that lies."""
        if self.revision is not None or not self.name:
            return self.name
        path = Path(self.name).expanduser()
        return path.name if path.name not in ("", "..") else path.resolve().name

    @property
    def model_config(self) -> "PreTrainedConfig":
        """The configuration of a source that is known to have one."""
        assert self.config is not None, f"{self.name or 'a plain module'} has no configuration"
        return self.config

    @property
    def files(self) -> Path | None:
        """The folder with the tokenizer and the other files that go with the model."""
        return self.companions or self.folder


@dataclass(frozen=True, eq=False)
class Graph:
    """A captured model. Treat it as immutable: every change is made on a `fork()`.

    `inputs` and `outputs` are the contract names (`past_key_values.0.key`), in the order that the module takes and
    returns them. Each node's `meta["value"]` is its `TensorType`, a size, or a tuple of these.

    `companions` are tensors that belong to parameters and have their shapes, by kind and parameter name: the moments of
    an optimizer, say. A rewrite cuts them as it cuts the parameters. `notes` are what the user should know. `memo` is
    plain data that one method leaves for its next round, under its name. `cleanups` are the passes that made the graph
    from what was traced, in order; what was done to it later is its history.
    """

    module: fx.GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    source: Source = Source()
    history: tuple[Step, ...] = ()
    lineage: Lineage = field(default_factory=Lineage)
    companions: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    memo: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cleanups: tuple[Cleanup, ...] = ()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the graph on the inputs in contract order; returns the outputs in contract order."""
        outputs: tuple[Tensor, ...] = self.module(*inputs)
        return outputs

    def __str__(self) -> str:
        from graphprune.ir.printing import print_graph

        return print_graph(self)

    @property
    def nodes(self) -> list[fx.Node]:
        return list(self.module.graph.nodes)

    @property
    def placeholders(self) -> dict[str, fx.Node]:
        """The input nodes by contract name."""
        return dict(zip(self.inputs, self.module.graph.find_nodes(op="placeholder"), strict=True))

    @property
    def results(self) -> dict[str, fx.Node]:
        """The nodes returned, by contract name."""
        return dict(zip(self.outputs, self.returned, strict=True))

    @property
    def returned(self) -> tuple[fx.Node, ...]:
        """The nodes that the module returns, in order."""
        results = self.module.graph.output_node().args[0]
        assert isinstance(results, (tuple, list)), "a graph returns a tuple"
        return tuple(node for node in results if isinstance(node, fx.Node))

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer that the graph reads, by name, in graph order; ties appear under each name."""
        names = dict.fromkeys(str(node.target) for node in self.module.graph.find_nodes(op="get_attr"))
        held: dict[str, Tensor] = dict(self.module.named_parameters(remove_duplicate=False))
        held |= self.module.named_buffers(remove_duplicate=False)
        return {name: held[name] if name in held else get_tensor(self.module, name) for name in names}

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Every trainable tensor once, under the first of its names in graph order."""
        unique = {id(t): n for n, t in reversed(self.tensors().items()) if isinstance(t, torch.nn.Parameter)}
        names = set(unique.values())
        return {n: t for n, t in self.tensors().items() if n in names and isinstance(t, torch.nn.Parameter)}

    def parameter_count(self) -> int:
        """Number of parameters, a tied one counted once."""
        return sum(parameter.numel() for parameter in self.parameters().values())

    def fork(self) -> "Graph":
        """Return a graph with its own nodes that shares every tensor with this one."""
        module = fx.GraphModule(dict(self.tensors()), copy_nodes(self.module.graph))
        module.train(self.module.training)
        return replace(self, module=module)

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> "Graph":
        """Return a fork in which the named parameters and buffers are replaced; a tied one under each of its names."""
        old = self.tensors()
        replaced = {id(old[name]): tensor for name, tensor in tensors.items()}
        merged = {name: replaced.get(id(tensor), tensor) for name, tensor in old.items()}
        module = fx.GraphModule(merged, copy_nodes(self.module.graph))
        module.train(self.module.training)
        return replace(self, module=module)

    def derive(self, find: Callable[["Graph"], Found]) -> Found:
        """What a pure function finds of this graph, found once: it is kept as long as the nodes are, and with them.

        For functions of the nodes, the contract and the shapes; values of tensors may change.
        """
        kept = self.module.__dict__.setdefault("_derived", {})
        key = (find, self.inputs, self.outputs, self.source.kind, self.module.code)
        if key not in kept:
            kept[key] = find(self)
        found: Found = kept[key]
        return found

    def record(self, step: Step) -> "Graph":
        return replace(self, history=(*self.history, step))

    def note(self, *texts: str) -> "Graph":
        """Return the graph with further notes for the user, each once."""
        return replace(self, notes=tuple(dict.fromkeys((*self.notes, *texts))))

    def remember(self, name: str, value: Mapping[str, object]) -> "Graph":
        """Return the graph with plain data under this name for later passes."""
        return replace(self, memo={**self.memo, name: value})


def get_tensor(module: torch.nn.Module, name: str) -> Tensor:
    """Return the parameter or buffer with this dotted name."""
    scope, _, leaf = name.rpartition(".")
    tensor: Tensor = getattr(module.get_submodule(scope), leaf)
    return tensor


def copy_nodes(graph: fx.Graph) -> fx.Graph:
    """Copy the nodes with their types; nothing else in `meta` is shared between the copies."""
    result = fx.Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        new = result.node_copy(node, lambda n: mapping[n])
        new.name, new.meta = node.name, dict(node.meta)
        mapping[node] = new
    return result


def deep_copy(graph: Graph) -> Graph:
    """Return a graph that shares no tensor with this one; ties stay ties."""
    copies = copy.deepcopy(graph.tensors())  # one memo: a tied tensor is copied once
    return graph.with_tensors(copies)
