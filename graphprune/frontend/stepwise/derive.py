"""Stepwise form: a graph that computes a whole text becomes one that continues a text, with a cache.

From the logits of the new tokens backwards, every call is asked for the rows of the new tokens alone. Where a call
needs all rows of something that depends on the text, as attention does of its keys and values, that becomes a state:
what was computed before comes in, the new rows are appended, and the whole goes out. Recurrences, windows of
convolutions and shifts by one token keep their last state instead. The result holds for causal models only, which is
not proved here: it is compared with the model (decision 0023).
"""

import operator
import re
from dataclasses import dataclass, field, replace
from typing import Any

import sympy
import torch
from torch import fx

from graphprune.errors import CaptureError
from graphprune.frontend.stepwise.fixed_states import held
from graphprune.frontend.stepwise.token_flow import (
    LIKE,
    PAST,
    SEQUENCE,
    TOTAL,
    WHOLE,
    Form,
    bottlenecks,
    dependents,
    is_tensor,
    operands,
    passes,
    restricted,
    shape_of,
    token_dims,
    unchanged_operand,
)
from graphprune.frontend.stepwise.token_rules import rule_of
from graphprune.frontend.tracing.cleanups import REMOVE_UNREAD, clean
from graphprune.frontend.tracing.draft import Draft
from graphprune.ir.cleanups import Cleanup
from graphprune.ir.contract import PREFIX, present_of
from graphprune.ir.graph import Graph
from graphprune.ir.operators import opname
from graphprune.ir.sizes import emit_size
from graphprune.ir.types import Size, TensorType

_aten = torch.ops.aten
_END = 2**63 - 1
_SHAPE_ARGUMENTS = {"reshape": 1, "view": 1, "expand": 1, "repeat": 1, "full": 0, "zeros": 0, "ones": 0}
_SHAPE_ARGUMENTS |= {"new_full": 1, "new_zeros": 1, "new_ones": 1}


class NotStepwiseError(CaptureError):
    """A graph has something that this pass cannot continue from a state."""


def stepwise(graph: Graph) -> Graph:
    """The decoder graph of a graph from `input_ids` to `logits`. Raises NotStepwiseError with the reason."""
    logits = graph.results.get("logits")
    if logits is None or set(graph.inputs) - {"input_ids", "attention_mask"} or "input_ids" not in graph.inputs:
        raise NotStepwiseError("only a graph from input_ids to logits can be continued from a state")
    if not token_dims(logits):
        raise NotStepwiseError("its logits are not of each token")
    builder = Builder(graph)
    try:
        for node in bottlenecks(
            graph.nodes, builder.depends
        ):  # in order, so that no call stack is as deep as the model
            builder.emit(node, token_dims(node))
        found = builder.emit(logits, token_dims(logits))
    except RecursionError:
        raise NotStepwiseError("it is too deep") from None
    builder.new.output((found, *builder.presents.values()))
    tensors = graph.tensors()
    module, done = clean(Draft(builder.new, tensors), list(tensors), (REMOVE_UNREAD,))
    derived = Cleanup("derive_cache", f"{len(builder.presents):,} states of {len(graph.nodes):,} nodes for whole texts")
    cleanups = (*graph.cleanups, derived, *done)
    inputs = (*graph.inputs, *builder.presents)
    outputs = ("logits", *map(present_of, builder.presents))
    source = replace(graph.source, kind="decoder")
    return replace(graph, module=module, inputs=inputs, outputs=outputs, source=source, cleanups=cleanups)


@dataclass
class Builder:
    """The new graph while it is built; each call of the old one has a node for every form that is asked of it."""

    old: Graph
    new: fx.Graph = field(default_factory=fx.Graph)
    made: dict[tuple[fx.Node, Form], Any] = field(default_factory=dict)
    presents: dict[str, fx.Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.inputs: dict[fx.Node, fx.Node] = {}
        for name, node in self.old.placeholders.items():
            shape = list(shape_of(node))
            if name == "attention_mask":
                shape[1] = TOTAL
            self.inputs[node] = self.placeholder(str(node.target), TensorType(node.meta["value"].dtype, tuple(shape)))
        self.depends = dependents(self.old.placeholders["input_ids"])
        self.anchor = self.new.create_node("call_function", len, ())  # sizes and calls stand in front of it
        self.anchor.meta["value"] = None

    def placeholder(self, name: str, type_: TensorType) -> fx.Node:
        places = self.new.find_nodes(op="placeholder")
        with self.new.inserting_after(places[-1]) if places else self.new.inserting_after():
            node = self.new.placeholder(name)
        node.meta["value"] = type_
        return node

    def emit(self, node: fx.Node, form: Form) -> Any:
        """The node of the new graph that holds these rows of an old node's value."""
        if not is_tensor(node):
            return self.size(node.meta["value"], whole=True)
        form = form & token_dims(node)
        if (node, form) not in self.made:
            self.made[node, form] = self.build(node, form)
        return self.made[node, form]

    def build(self, node: fx.Node, form: Form) -> fx.Node:
        if node.op == "placeholder":
            return self.build_input(node, form)
        if node.op == "get_attr":
            return self.call(node, "get_attr", node.target, (), {}, form)
        same = unchanged_operand(node)
        if same is not None:
            return self.emit(same, form)  # type: ignore[no-any-return]
        found = held(self, node, form) if node in self.depends else None
        if found is not None:
            return found
        if node in self.depends and not form and token_dims(node) and not passes(node):
            return self.keep(node)
        if opname(node) in LIKE and form != token_dims(node):
            return self.filled(node, form)
        rule = rule_of(node)
        forms = rule(node, form) if rule is not None else None
        if forms is None and form:
            whole = self.copy(node, WHOLE, [WHOLE] * len(operands(node)))
            return self.latest(whole, node, form)
        return self.copy(node, form, forms or [WHOLE] * len(operands(node)))

    def build_input(self, node: fx.Node, form: Form) -> fx.Node:
        given = self.inputs[node]
        if node in self.depends:
            return given if form else self.keep(node)
        return self.latest(given, node, form)

    def filled(self, node: fx.Node, form: Form) -> fx.Node:
        """A constant like something that is not there in this form."""
        type_ = self.type_of(node, form)
        value = node.args[1] if opname(node) == "full_like" else LIKE[opname(node)]
        sizes = [self.size(size, whole=False) for size in type_.shape]
        with self.new.inserting_before(self.anchor):
            new = self.new.call_function(_aten.full.default, (sizes, value), {"dtype": type_.dtype})
        new.meta = {"value": type_, "scope": node.meta.get("scope", "")}
        return new

    def copy(self, node: fx.Node, form: Form, forms: list[Form]) -> fx.Node:
        """The same call on operands of these forms."""
        left = iter(forms)
        place = _SHAPE_ARGUMENTS.get(opname(node))

        def argument(n: fx.Node) -> Any:
            return self.emit(n, next(left)) if is_tensor(n) else self.emit(n, WHOLE)

        wanted = self.type_of(node, form)
        args = [
            self.sizes(arg, wanted) if index == place else fx.node.map_arg(arg, argument)
            for index, arg in enumerate(node.args)
        ]
        kwargs = dict(fx.node.map_arg(node.kwargs, argument))
        return self.call(node, "call_function", node.target, tuple(args), kwargs, form)

    def sizes(self, old: Any, wanted: TensorType) -> list[Any]:
        """The argument that gives a shape: a size of the old graph becomes that of the new value."""
        return [
            self.size(size, whole=False) if isinstance(entry, fx.Node) else entry
            for entry, size in zip(old, wanted.shape, strict=True)
        ]

    def call(self, node: fx.Node, op: str, target: Any, args: Any, kwargs: Any, form: Form) -> fx.Node:
        with self.new.inserting_before(self.anchor):
            new = self.new.create_node(op, target, args, kwargs)
        new.meta = {"value": self.type_of(node, form), "scope": node.meta.get("scope", "")}
        return new

    def add(self, target: Any, args: tuple[Any, ...], like: fx.Node, type_: TensorType) -> fx.Node:
        """A call that the old graph has not, in the scope of an old one."""
        with self.new.inserting_before(self.anchor):
            new = self.new.call_function(target, args)
        new.meta = {"value": type_, "scope": like.meta.get("scope", "")}
        return new

    def type_of(self, node: fx.Node, form: Form) -> Any:
        return restricted(node.meta["value"], form)

    def size(self, size: Any, whole: bool) -> Any:
        """The argument for a size of the old graph (`whole`: of the whole text) or of the new one."""
        wanted = size.xreplace({SEQUENCE: TOTAL}) if whole and isinstance(size, sympy.Expr) else size
        if not isinstance(wanted, sympy.Expr) or PAST not in wanted.free_symbols:
            return emit_size(self.new, wanted, self.anchor) if isinstance(wanted, sympy.Expr) else wanted
        if wanted != TOTAL:
            raise NotStepwiseError(f"it computes with the size {wanted}")
        return self.total()

    def total(self) -> fx.Node:
        """The length of the whole text: read off the mask, or off a state."""
        mask = next((n for n in self.inputs.values() if TOTAL in shape_of(n)), None)
        if mask is None:
            if not any(PAST in shape_of(n) for n in self.new.find_nodes(op="placeholder")):
                raise NotStepwiseError("nothing that it takes says how long the text was before")
            total = emit_size(self.new, TOTAL, self.anchor)
            assert isinstance(total, fx.Node)
            return total
        with self.new.inserting_before(self.anchor):
            node = self.new.call_function(_aten.sym_size.int, (mask, shape_of(mask).index(TOTAL)))
        node.meta["value"] = TOTAL
        return node

    def past(self) -> fx.Node:
        total, new = self.total(), emit_size(self.new, SEQUENCE, self.anchor)
        with self.new.inserting_before(self.anchor):
            node = self.new.call_function(operator.sub, (total, new))
        node.meta["value"] = PAST
        return node

    def latest(self, whole: fx.Node, node: fx.Node, form: Form) -> fx.Node:
        """The rows of the new tokens of something that is there for the whole text."""
        done: Form = WHOLE
        for dim in sorted(form):
            if shape_of(node)[dim] != SEQUENCE:
                raise NotStepwiseError(f"{node.name} has the tokens in one dimension with others")
            done |= {dim}
            whole = self.add(_aten.slice.Tensor, (whole, dim, self.past(), _END), node, self.type_of(node, done))
        return whole

    def keep(self, node: fx.Node) -> fx.Node:
        """All rows of a value: those of the past come in as a state, and all go out."""
        [dim] = token_dims(node) if len(token_dims(node)) == 1 else [None]
        shape = shape_of(node)
        if dim is None or shape[dim] != SEQUENCE or dim == 0 or len(shape) != 4:
            raise NotStepwiseError(f"{node.name} of shape {list(shape)} would have to be kept")
        rows, order = self.emit(node, frozenset({dim})), [d for d in range(4) if d != dim]
        order.insert(2, dim)
        state_shape = tuple(PAST if d == dim else shape[d] for d in order)
        dtype = node.meta["value"].dtype
        name = self.growing_name(node)
        state = self.placeholder(re.sub(r"\W", "_", name), TensorType(dtype, state_shape))
        rows = self.arranged(rows, node, order, SEQUENCE)
        whole = tuple(TOTAL if size == PAST else size for size in state_shape)
        joined = self.add(_aten.cat.default, ([state, rows], 2), node, TensorType(dtype, whole))
        self.presents[name] = joined
        return self.arranged(joined, node, [order.index(d) for d in range(4)], TOTAL)

    def arranged(self, x: fx.Node, node: fx.Node, order: list[int], size: Size) -> fx.Node:
        if order == [0, 1, 2, 3]:
            return x
        old = x.meta["value"]
        type_ = TensorType(old.dtype, tuple(old.shape[d] for d in order))
        return self.add(_aten.permute.default, (x, order), node, type_)

    def growing_name(self, node: fx.Node) -> str:
        """Keys come first, as scores are computed before what they weight."""
        layer = self.layer(node)
        for part in ("key", "value"):
            if f"{PREFIX}{layer}.{part}" not in self.presents:
                return f"{PREFIX}{layer}.{part}"
        raise NotStepwiseError(f"layer {layer} keeps more than keys and values of its tokens")

    def fixed_name(self, node: fx.Node, kind: str) -> str:
        start = f"{PREFIX}{self.layer(node)}.{kind}"
        taken = sum(name.startswith(start) for name in self.presents)
        return f"{start}{taken or ''}"

    def layer(self, node: fx.Node) -> int:
        found = re.search(r"\.(\d+)(\.|$)", node.meta.get("scope", ""))
        return int(found[1]) if found else 0

    def hold(self, node: fx.Node, kind: str, type_: TensorType) -> tuple[str, fx.Node]:
        """A state of a fixed size that comes in; the caller sets what goes out."""
        name = self.fixed_name(node, kind)
        return name, self.placeholder(re.sub(r"\W", "_", name), type_)
