"""A causal language model or an encoder whose layers have unequal widths, run from the operator graph in its config.

This file stands alone: graphprune writes it beside the weights and transformers finds it through `auto_map`. The graph
is data: its nodes name ATen operators without side effects; no other part of Python or of the file system is reachable.
"""

import base64
import contextlib
import json
import math
import operator
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import DynamicCache, DynamicLayer, StaticLayer
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import ModelOutput

FORMAT = 1
MAXIMUM_BYTES = 1 << 28
REFUSED = {"from_file", "set_", "resize_", "_local_scalar_dense"}
PYTHON: dict[str, tuple[Any, list[str]]] = {
    "operator": (operator, ["add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "getitem"]),
    "math": (math, ["floor", "ceil", "trunc", "sqrt"]),
    "torch": (torch, ["sym_max", "sym_min", "sym_float", "sym_int", "sym_not"]),
}


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
    return graph  # type: ignore[no-any-return]


def resolve(name: str) -> Any:
    """The function of a node: an ATen overload without side effects, or a few Python functions on sizes."""
    space, _, rest = str(name).partition(".")
    if space == "aten" and rest.count(".") == 1:
        operator_name, overload = rest.split(".")
        packet = None if operator_name in REFUSED else getattr(torch.ops.aten, operator_name, None)
        function = getattr(packet, overload, None) if isinstance(packet, torch._ops.OpOverloadPacket) else None
        if isinstance(function, torch._ops.OpOverload) and not function._schema.is_mutable:
            return function
    if space in PYTHON and rest in PYTHON[space][1]:
        return getattr(PYTHON[space][0], rest)
    raise ValueError(f"the operator {name!r} is not allowed in a graph; the checkpoint is damaged or not to be trusted")


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

    def read(self, node: list[Any]) -> tuple[Any, Any, dict[str, Any]]:
        if node[0] in ("input", "tensor"):
            return node[0], str(node[1]), {}
        return resolve(node[0]), decode(node[1]), {key: decode(value) for key, value in node[2].items()}

    def run(
        self,
        inputs: Mapping[str, Tensor],
        tensors: Mapping[str, Tensor],
        device: torch.device,
        dtypes: Mapping[torch.dtype, torch.dtype],
    ) -> list[Tensor]:
        """Run on inputs and tensors by name; `dtypes` replaces element types named in the graph."""
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
                values[index] = (inputs if function == "input" else tensors)[args]
            else:
                values[index] = function(*map(get, args), **{key: get(value) for key, value in kwargs.items()})
            for old in self.retired[index]:
                values[old] = None
        return [values[index] for index in self.returned]


class GraphpruneConfig(PreTrainedConfig):
    """`graph` is the packed graph; the other fields are those of the source model, for tools that look."""

    model_type = "graphprune"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012
    graph: str = ""
    num_hidden_layers: int = 0
    use_cache: bool = True

    def __repr__(self) -> str:
        shown = {k: v for k, v in self.to_dict().items() if k not in ("graph", "source_config")}
        return f"GraphpruneConfig {json.dumps(shown, indent=2, default=str)}"


class GraphprunePreTrainedModel(PreTrainedModel):
    """Parameters and buffers under the names of the source model, and the graph that reads them."""

    config_class = GraphpruneConfig
    base_model_prefix = ""
    _supports_sdpa = True
    _tied_weights_keys = {}  # noqa: RUF012 - a tied tensor has one name in the graph

    def __init__(self, config: GraphpruneConfig) -> None:
        super().__init__(config)
        graph = unpack(config.graph)
        self.program = Program(graph)
        self.captured = getattr(torch, graph["dtype"])
        self.input_types = {name: (getattr(torch, dtype), shape) for name, dtype, shape in graph["inputs"]}
        self.tensor_names = list(graph["tensors"])
        for name, (dtype, shape, trainable) in graph["tensors"].items():
            self.add_tensor(name, getattr(torch, dtype), shape, trainable)
        self.post_init()  # type: ignore[no-untyped-call]
        buffers = [n for n, b in self.named_buffers() if b.dtype == torch.float32]
        self._keep_in_fp32_modules_strict = set(buffers) | set(self._keep_in_fp32_modules_strict or ())

    def add_tensor(self, name: str, dtype: torch.dtype, shape: list[int], trainable: bool) -> None:
        scope, _, leaf = name.rpartition(".")
        module: nn.Module = self
        for part in scope.split(".") if scope else ():
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        if trainable:
            empty = torch.empty(shape, dtype=None if dtype == self.captured else dtype)
            module.register_parameter(leaf, nn.Parameter(empty, requires_grad=empty.is_floating_point()))
        else:
            module.register_buffer(leaf, torch.zeros(shape, dtype=dtype))

    def _init_weights(self, module: nn.Module) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1:
                init.normal_(parameter, std=getattr(self.config, "initializer_range", None) or 0.02)
            elif name == "weight":
                init.ones_(parameter)
            else:
                init.zeros_(parameter)

    def execute(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph on the tensors by contract name; returns the outputs by contract name."""
        tensors = {name: self.find_tensor(name) for name in self.tensor_names}
        dtypes: dict[torch.dtype, torch.dtype] = {}
        context: Any = contextlib.nullcontext()
        if self.captured == torch.float32 and self.dtype in (torch.bfloat16, torch.float16):
            # A float32 graph does not say which of its parts need float32; autocast knows by operator.
            context = torch.autocast(self.device.type, dtype=self.dtype)
        elif self.dtype != self.captured:
            dtypes = {self.captured: self.dtype}
        with context:
            results = self.program.run(inputs, tensors, self.device, dtypes)
        return dict(zip(self.program.outputs, results, strict=True))

    def find_tensor(self, name: str) -> Tensor:
        scope, _, leaf = name.rpartition(".")
        return getattr(self.get_submodule(scope), leaf)  # type: ignore[no-any-return]

    def get_input_embeddings(self) -> nn.Module:
        raise NotImplementedError("a graphprune model has no embedding module; its parameters are read by its graph")

    def get_output_embeddings(self) -> None:
        return None

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As in transformers; this file goes along, so that the folder loads without graphprune."""
        kind = "AutoModelForCausalLM" if self.can_generate() else "AutoModel"
        stem = Path(__file__).stem
        self.config.auto_map = {"AutoConfig": f"{stem}.GraphpruneConfig", kind: f"{stem}.{type(self).__name__}"}
        super().save_pretrained(save_directory, *args, **kwargs)
        target = Path(save_directory) / Path(__file__).name
        if target.resolve() != Path(__file__).resolve():
            shutil.copyfile(__file__, target)


class GraphpruneForCausalLM(GraphprunePreTrainedModel, GenerationMixin):
    """A decoder with a key-value cache; layers may have any number of heads, or none."""

    def __init__(self, config: GraphpruneConfig) -> None:
        super().__init__(config)
        names = [name for name in self.program.inputs if name.startswith("past_key_values.")]
        self.caches = list(zip(names[::2], names[1::2], strict=True))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("a graphprune model takes input_ids; inputs_embeds are not supported")
        if attention_mask is not None and attention_mask.ndim != 2:
            raise ValueError("a graphprune model takes an attention mask of shape [batch, past + sequence]")
        use_cache = self.config.use_cache if use_cache is None else use_cache
        cache = past_key_values
        if cache is None and use_cache:
            cache = DynamicCache(config=self.config)
        past = self.past_length(cache, input_ids, attention_mask)
        inputs = self.plain_inputs(input_ids, attention_mask, position_ids, past)
        inputs |= self.past_inputs(cache, input_ids, past)
        outputs = self.execute(inputs)
        if cache is not None:
            self.store(cache, outputs, past)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep  # -0 keeps all
        logits = outputs["logits"][:, kept, :]
        loss = None
        if labels is not None:
            options = {k: v for k, v in kwargs.items() if k in ("num_items_in_batch", "ignore_index", "shift_labels")}
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **options)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache if use_cache else None)

    def past_length(self, cache: Any, ids: Tensor, mask: Tensor | None) -> int:
        if not self.caches:  # no attention is left: nothing is stored, the mask alone knows
            return 0 if mask is None else mask.shape[1] - ids.shape[1]
        return 0 if cache is None else int(cache.get_seq_length())

    def plain_inputs(self, ids: Tensor, mask: Tensor | None, positions: Tensor | None, past: int) -> dict[str, Tensor]:
        batch, length = ids.shape
        total = past + length
        if mask is None:
            mask = torch.ones(batch, total, dtype=torch.long, device=ids.device)
        if mask.shape[1] < total:
            raise ValueError(f"the attention mask covers {mask.shape[1]} tokens, but past and input have {total}")
        if positions is None:
            positions = torch.arange(past, total, device=ids.device).unsqueeze(0)
        given = {
            "input_ids": ids.long(),
            "attention_mask": mask[:, :total].long(),
            "position_ids": positions.long().expand(batch, length),
        }
        return {name: tensor for name, tensor in given.items() if name in self.program.inputs}

    def past_inputs(self, cache: Any, ids: Tensor, past: int) -> dict[str, Tensor]:
        inputs = {}
        for index, names in enumerate(self.caches):
            layer = self.layer(cache, index) if past else None
            for name, tensor in zip(names, (layer.keys, layer.values) if layer else (None, None), strict=True):
                _, (_, heads, _, size) = self.input_types[name]
                if tensor is None:
                    tensor = torch.zeros(ids.shape[0], heads, 0, size, dtype=self.dtype, device=ids.device)
                inputs[name] = tensor[:, :, :past].to(self.dtype)
        return inputs

    def store(self, cache: Any, outputs: Mapping[str, Tensor], past: int) -> None:
        """Put the new keys and values into the cache; a growing cache takes the tensors as they are."""
        presents = [name.replace("past_key_values.", "present.") for pair in self.caches for name in pair]
        tensors = [outputs[name].to(self.dtype) for name in presents]
        for index, (keys, values) in enumerate(zip(tensors[::2], tensors[1::2], strict=True)):
            layer = self.layer(cache, index) if index < len(cache.layers) else None
            if type(layer) is DynamicLayer:
                if not layer.is_initialized:
                    layer.lazy_initialization(keys, values)
                layer.keys, layer.values = keys, values
            else:
                cache.update(keys[:, :, past:], values[:, :, past:], index)

    def layer(self, cache: Any, index: int) -> Any:
        layer = cache.layers[index]
        if type(layer) not in (DynamicLayer, StaticLayer) or cache.offloading:
            raise ValueError("a graphprune model takes a DynamicCache or a StaticCache made with its own configuration")
        return layer

    def create_masks_for_generate(self, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
        return attention_mask  # the graph makes its own causal mask from the two-dimensional one

    def _valid_auto_compile_criteria(self, *args: Any, **kwargs: Any) -> bool:
        return False  # the filled length of a static cache is read as a number

    def _get_static_cache_init_shape(self) -> tuple[list[int], list[int]]:
        shapes = [self.input_types[key][1] for key, _ in self.caches]
        return [shape[1] for shape in shapes], [shape[3] for shape in shapes]


class GraphpruneModel(GraphprunePreTrainedModel):
    """An encoder: takes the graph's inputs by name and returns its outputs by name."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> ModelOutput:
        given = {**kwargs, "input_ids": input_ids, "pixel_values": pixel_values}
        given |= {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        if input_ids is not None and attention_mask is None:
            given["attention_mask"] = torch.ones_like(input_ids)
        if input_ids is not None and token_type_ids is None:
            given["token_type_ids"] = torch.zeros_like(input_ids)
        missing = [name for name in self.program.inputs if given.get(name) is None]
        if missing:
            raise ValueError(f"this model also needs the inputs {', '.join(missing)}")
        inputs = {}
        for name in self.program.inputs:
            dtype = self.input_types[name][0]
            inputs[name] = given[name].to(self.dtype if dtype.is_floating_point else dtype)
        result = ModelOutput()
        for name, tensor in self.execute(inputs).items():
            result[name] = tensor
        return result
