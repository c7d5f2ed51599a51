"""Graphs as data, and the interpreter that runs them.

This file stands alone: graphprune writes it beside modeling_graphprune.py. A graph is data, possibly of somebody who
means harm: its nodes name operators of a list, its tensors have plain names, and no other part of Python or of the file
system is reachable.
"""

import base64
import json
import math
import operator
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

FORMAT = 1
MAXIMUM_BYTES = 1 << 28
PYTHON: dict[str, tuple[Any, list[str]]] = {
    "operator": (operator, ["add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "getitem"]),
    "math": (math, ["floor", "ceil", "trunc", "sqrt"]),
    "torch": (torch, ["sym_max", "sym_min", "sym_float", "sym_int", "sym_not"]),
}
# The ATen operators that a graph may name: what PyTorch tags as core or pointwise, what has a form in ONNX, and what
# captured models were seen to use. All give new values of their arguments; none reads memory that was not written.
_ATEN = """
    __and__ __lshift__ __or__ __rshift__ __xor__ _adaptive_avg_pool2d _adaptive_avg_pool3d _conj _embedding_bag
    _embedding_bag_forward_only _fft_c2c _fft_c2r _fft_r2c _grouped_mm _linalg_det _log_softmax
    _native_batch_norm_legit_no_training _prelu_kernel _safe_softmax _softmax _to_copy _upsample_bicubic2d_aa
    _upsample_bilinear2d_aa abs acos acosh adaptive_avg_pool1d adaptive_avg_pool2d add addbmm addcdiv addcmul addmm
    addmv addr alias all amax amin angle any arange argmax argmin asin asinh atan atan2 atanh atleast_1d atleast_2d
    atleast_3d avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bernoulli bilinear bincount bitwise_and
    bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor blackman_window bmm broadcast_tensors
    broadcast_to cat ceil celu chunk clamp clamp_max clamp_min clip clone col2im complex concat concatenate conj
    conj_physical constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    convolution copy copysign cos cosh cross cross_entropy_loss cummax cummin cumprod cumsum deg2rad det detach diagonal
    diagonal_copy diff digamma div divide dot dropout einsum elu embedding embedding_bag eq erf erfc erfinv exp exp2
    expand expand_as expm1 eye fake_quantize_per_channel_affine fake_quantize_per_tensor_affine fill flatten flip
    float_power floor floor_divide fmax fmin fmod frac frexp full full_like gather gcd ge gelu glu greater greater_equal
    grid_sampler grid_sampler_2d group_norm gru gt hamming_window hann_window hardshrink hardsigmoid hardswish hardtanh
    heaviside histc hypot i0 igamma igammac im2col index index_add index_put index_select instance_norm isclose isfinite
    isinf isnan isneginf isposinf layer_norm lcm ldexp le leaky_relu lerp less less_equal lgamma lift_fresh_copy
    linalg_cross linalg_det linalg_vector_norm linear linspace log log10 log1p log2 log_sigmoid log_softmax logaddexp
    logaddexp2 logcumsumexp logdet logical_and logical_not logical_or logical_xor logit logsumexp lstm lt mH mT
    masked_fill masked_scatter matmul max max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices
    max_pool3d max_pool3d_with_indices maximum mean min minimum mish mm mse_loss mul multinomial multiply mv mvlgamma
    nan_to_num narrow native_batch_norm native_dropout native_group_norm native_layer_norm ne neg new_full new_ones
    new_zeros nextafter nll_loss nll_loss_forward nonzero norm normal one_hot ones ones_like pad permute pixel_shuffle
    pixel_unshuffle polar polygamma positive pow prelu prod rad2deg rand rand_like randint randint_like randn randn_like
    randperm reciprocal reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 remainder repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d reshape reshape_as resolve_conj resolve_neg rms_norm roll
    round rrelu rsqrt rsub scalar_tensor scaled_dot_product_attention scatter scatter_add scatter_reduce select
    select_scatter selu sgn sigmoid sign signbit silu sin sinc sinh slice slice_scatter softmax softplus softshrink sort
    special_entr special_erf special_erfc special_erfcx special_expm1 special_i0e special_i1 special_i1e
    special_log_ndtr special_log_softmax special_ndtri special_sinc special_softmax special_xlog1py split
    split_with_sizes sqrt square squeeze stack std sub subtract sum sym_numel sym_size sym_stride t tan tanh tensor
    threshold tile to topk transpose tril triu true_divide trunc type_as unbind unflatten unfold unique_consecutive
    unique_dim unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d upsample_trilinear3d var var_mean view view_as view_as_complex view_as_complex_copy view_as_real
    view_as_real_copy view_copy where xlogy zeros zeros_like
"""
ATEN = frozenset(_ATEN.split())
# A name is read by Python's code generation, by `getattr` and by file formats: `layers.0.mlp.weight`, `en-de.bias`.
NAME = re.compile(r"(?!__)[A-Za-z0-9_][A-Za-z0-9_-]{0,199}")
LONGEST_NAME = 1000


def pack(graph: Any) -> str:
    """Compress a graph (JSON data) to one line of text for config.json."""
    return base64.b64encode(zlib.compress(json.dumps(graph, separators=(",", ":")).encode(), 9)).decode()


def unpack(text: str) -> dict[str, Any]:
    """Read what `pack` wrote. Raises ValueError where it is not a graph of this format."""
    try:
        data = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), MAXIMUM_BYTES)
        graph = json.loads(data)
        version = graph["format"]
    except Exception as error:
        raise ValueError(f"config.json holds no readable graphprune graph: {error}; export it again") from error
    if version != FORMAT:
        raise ValueError(f"the graph has format {version}, this file reads format {FORMAT}; update graphprune")
    try:
        check_names(graph)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"config.json holds a graph that is damaged or not to be trusted: {error}") from error
    return graph  # type: ignore[no-any-return]


def check_names(graph: Mapping[str, Any]) -> None:
    """Raise ValueError where a tensor, an input or an output has no plain name, or a type that is none."""
    if not all(isinstance(graph[part], list) for part in ("nodes", "inputs", "outputs")):
        raise ValueError("its parts are no lists")
    read = [str(node[1]) for node in graph["nodes"] if node[0] in ("input", "tensor")]
    for name in (*graph["tensors"], *read, *(name for name, *_ in (*graph["inputs"], *graph["outputs"]))):
        if not is_name(name):
            raise ValueError(f"{str(name)[:80]!r} is no name in a graph")
    tensors, inputs = graph["tensors"].values(), graph["inputs"]
    for type_ in (graph["dtype"], *(type_ for type_, _, _ in tensors), *(type_ for _, type_, _ in inputs)):
        element_type(type_)


def is_name(name: Any) -> bool:
    """Say whether this is words with dots between them."""
    return isinstance(name, str) and len(name) <= LONGEST_NAME and all(map(NAME.fullmatch, name.split(".")))


def element_type(name: Any) -> torch.dtype:
    """The element type of this name. Raises ValueError where it is none."""
    found = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{str(name)[:80]!r} is no element type")
    return found


def check_call(name: str, function: Any, given: list[Any], options: Mapping[str, Any]) -> None:
    """Raise ValueError where a node gives its function more than it takes, keywords that it has not, or odd texts."""
    takes = arguments_of(function)
    named = dict(list(takes.items())[len(given) :])
    unknown = next((f"the argument {str(key)[:80]!r}" for key in options if key not in named), None)
    unknown = f"{len(given)} arguments" if len(given) > len(takes) else unknown
    values = [*zip(takes.values(), given, strict=False), *((named.get(key, ""), v) for key, v in options.items())]
    if unknown is None and any(isinstance(value, str) and "str" not in kind for kind, value in values):
        unknown = "text there"
    if unknown is not None:
        raise ValueError(f"the operator {name!r} takes no {unknown}; the checkpoint is damaged or not to be trusted")


def arguments_of(function: Any) -> dict[Any, str]:
    """What a function takes: types by name; Python's functions take numbers, by position alone."""
    if function is linear_recurrence:
        return dict.fromkeys(("query", "key", "value", "decay", "state", "beta"), "Tensor")
    schema = getattr(function, "_schema", None)
    if schema is None:
        return {0: "number", 1: "number"}
    return {argument.name: str(argument.type) for argument in schema.arguments}


def resolve(name: str) -> Any:
    """The function of a node: an ATen overload of the list, or a few Python functions on sizes."""
    space, _, rest = str(name).partition(".")
    if space == "aten" and rest.count(".") == 1:
        operator_name, overload = rest.split(".")
        packet = getattr(torch.ops.aten, operator_name, None) if operator_name in ATEN else None
        function = getattr(packet, overload, None) if isinstance(packet, torch._ops.OpOverloadPacket) else None
        if isinstance(function, torch._ops.OpOverload) and is_plain(function):
            return function
    if space in PYTHON and rest in PYTHON[space][1]:
        return getattr(PYTHON[space][0], rest)
    if name == "graphprune.linear_recurrence.default":
        return linear_recurrence
    raise ValueError(f"the operator {name!r} is not allowed in a graph; the checkpoint is damaged or not to be trusted")


def is_plain(function: Any) -> bool:
    """Say whether an overload changes nothing and returns tensors; those of the same name on texts and lists do not."""
    schema = function._schema
    tensors = all("Tensor" in str(each.type) for each in schema.returns)
    return not schema.is_mutable and (tensors or schema.name.startswith("aten::sym_"))


class Value:
    """The result of an earlier node, as an argument."""

    def __init__(self, index: int) -> None:
        self.index = index


class Device:
    """The device of the model, whatever it was when the graph was captured."""


def decode(argument: Any) -> Any:
    """An argument from its JSON form."""
    if isinstance(argument, list):
        return [decode(item) for item in argument]
    if not isinstance(argument, dict):
        return argument
    ((kind, value),) = argument.items()
    if kind == "node":
        return Value(int(value))
    if kind == "device":
        return Device()
    if kind == "float":
        return float(value)
    known = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}
    constant = getattr(torch, str(value), None)
    if kind not in known or not isinstance(constant, known[kind]):
        raise ValueError(f"the graph holds an unknown constant {argument!r}; the checkpoint is damaged")
    return constant


def references(argument: Any) -> list[int]:
    """The indices of the nodes that an argument reads."""
    if isinstance(argument, (list, dict)):
        return [i for item in (argument.values() if isinstance(argument, dict) else argument) for i in references(item)]
    return [argument.index] if isinstance(argument, Value) else []


class Program:
    """The nodes of a graph, ready to run; `retired[i]` are the values that nothing reads after node i."""

    def __init__(self, graph: Mapping[str, Any]) -> None:
        self.inputs = [name for name, *_ in graph["inputs"]]
        self.outputs = [name for name, _ in graph["outputs"]]
        self.returned = [int(index) for _, index in graph["outputs"]]
        self.nodes = [self.read(node) for node in graph["nodes"]]
        self.count_uses()

    def count_uses(self) -> None:
        """Note what nothing reads any more, and which tensors are read at all."""
        last: dict[int, int] = {}
        for index, (_, args, kwargs) in enumerate(self.nodes):
            for read in [*references(args), *references(kwargs)]:
                if not 0 <= read < index:
                    raise ValueError(f"node {index} of the graph reads node {read}; the checkpoint is damaged")
                last[read] = index
        self.retired: list[list[int]] = [[] for _ in self.nodes]
        for read, index in last.items():
            if read not in self.returned:
                self.retired[index].append(read)
        used = {*last, *self.returned}
        self.tensors = {str(name): i for i, (kind, name, _) in enumerate(self.nodes) if kind == "tensor" and i in used}

    def read(self, node: list[Any]) -> tuple[Any, Any, dict[str, Any]]:
        if node[0] in ("input", "tensor"):
            return node[0], str(node[1]), {}
        function, args = resolve(node[0]), decode(node[1])
        check_call(node[0], function, args, node[2])
        return function, args, {key: decode(value) for key, value in node[2].items()}

    def run(
        self,
        inputs: Mapping[str, Tensor],
        tensors: Mapping[str, Tensor],
        device: torch.device,
        dtypes: Mapping[torch.dtype, torch.dtype],
        call: Callable[[Any], Any] = lambda function: function,
    ) -> list[Tensor]:
        """Run on inputs and tensors by name; `dtypes` replaces element types named in the graph.

        Tensors that no node reads may be missing. `call` gives what to call for the function of a node.
        """
        values: list[Any] = [None] * len(self.nodes)

        def get(argument: Any) -> Any:
            if isinstance(argument, Value):
                return values[argument.index]
            if isinstance(argument, list):
                return [get(item) for item in argument]
            if isinstance(argument, torch.dtype):
                return dtypes.get(argument, argument)
            return device if isinstance(argument, Device) else argument

        for index, (function, args, kwargs) in enumerate(self.nodes):
            if isinstance(function, str):
                values[index] = (inputs if function == "input" else tensors).get(args)
            else:
                values[index] = call(function)(*map(get, args), **{key: get(value) for key, value in kwargs.items()})
            for old in self.retired[index]:
                values[old] = None
        return [values[index] for index in self.returned]


def linear_recurrence(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, state: Tensor, beta: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run `S = exp(decay) * S + key (x) update`, `output = query @ S` over the tokens; returns outputs and last state.

    `query` and `key` are [batch, heads, tokens, K], `value` and the outputs [batch, heads, tokens, V], `state` is
    [batch, heads, K, V]. `decay` is the logarithm of the factor, [batch, heads, tokens, K or 1, V or 1]. The update is
    `value`; with `beta` [batch, heads, tokens] it is the delta rule's `beta * (value - key @ S)`.
    """
    outputs = []
    factors = decay.exp()
    for token in range(query.shape[2]):
        state = state * factors[:, :, token]
        update = value[:, :, token, None]
        if beta is not None:
            update = (update - key[:, :, token, None] @ state) * beta[:, :, token, None, None]
        state = state + key[:, :, token, :, None] * update
        outputs.append(query[:, :, token, None] @ state)
    return (torch.cat(outputs, 2) if outputs else torch.zeros_like(value)), state
