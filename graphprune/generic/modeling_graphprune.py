"""A causal language model or an encoder whose layers have unequal widths, run from the operator graph in its config.

This file, modules_graphprune.py and program_graphprune.py stand alone: graphprune writes them beside the weights and
transformers finds them through `auto_map`.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel, cache_utils
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import ModelOutput

from .modules_graphprune import Call, find_calls, input_embedding, make_module, output_layer, place_calls, scope_of
from .program_graphprune import Program, element_type, pack, unpack


class GraphpruneConfig(PreTrainedConfig):
    """`graph` is the packed graph; the other fields are those of the source model, for tools that look."""

    # A type that transformers has a configuration for and no model. Where it has neither, it offers to run the code of
    # the folder, on stdin, even to those who open the tokenizer alone. The model still needs `trust_remote_code=True`,
    # or graphprune.
    model_type = "t5_gemma_module"
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
        self.captured = element_type(graph["dtype"])
        self.input_types = {name: (element_type(dtype), shape) for name, dtype, shape in graph["inputs"]}
        for index, scope in (calls := find_calls(self.program, graph["tensors"])).items():
            self.add_call(index, scope, graph["tensors"])
        place_calls(self.program, calls)
        for name, (dtype, shape, trainable) in graph["tensors"].items():
            if not trainable or scope_of(name) not in calls.values():
                self.add_tensor(name, element_type(dtype), shape, trainable)
        self.post_init()  # type: ignore[no-untyped-call]
        buffers = [n for n, b in self.named_buffers() if b.dtype == torch.float32]
        self._keep_in_fp32_modules_strict = set(buffers) | set(self._keep_in_fp32_modules_strict or ())

    def add_call(self, index: int, scope: str, tensors: Mapping[str, Any]) -> None:
        """Put the module that stands for a node where its weights are."""
        function, args, _ = self.program.nodes[index]
        dtype, shape, _ = tensors[f"{scope}.weight"]
        dtype = None if (dtype := getattr(torch, dtype)) == self.captured else dtype
        parent, _, leaf = scope.rpartition(".")
        self.scope(parent).add_module(leaf, make_module(function, args, shape, f"{scope}.bias" in tensors, dtype))

    def scope(self, name: str) -> nn.Module:
        """The module of this name, made where there is none."""
        module: nn.Module = self
        for part in name.split(".") if name else ():
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        return module

    def add_tensor(self, name: str, dtype: torch.dtype, shape: list[int], trainable: bool) -> None:
        scope, _, leaf = name.rpartition(".")
        module = self.scope(scope)
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
        tensors = {name: self.find_tensor(name) for name in self.program.tensors}
        dtypes: dict[torch.dtype, torch.dtype] = {}
        context: Any = contextlib.nullcontext()
        if self.captured == torch.float32 and self.dtype in (torch.bfloat16, torch.float16):
            # A float32 graph does not say which of its parts need float32; autocast knows by operator.
            context = torch.autocast(self.device.type, dtype=self.dtype)
        elif self.dtype != self.captured:
            dtypes = {self.captured: self.dtype}
            tensors = {n: t.to(self.dtype) if t.dtype == self.captured else t for n, t in tensors.items()}
        with context:
            results = self.program.run(inputs, tensors, self.device, dtypes, self.called)
        return dict(zip(self.program.outputs, results, strict=True))

    def find_tensor(self, name: str) -> Tensor:
        scope, _, leaf = name.rpartition(".")
        module = self.get_submodule(scope)
        while not hasattr(module, leaf) and isinstance(getattr(module, "base_layer", None), nn.Module):
            module = module.base_layer  # an adapter stands around the layer
        return getattr(module, leaf)  # type: ignore[no-any-return]

    def called(self, function: Any) -> Any:
        return self.get_submodule(function.scope) if isinstance(function, Call) else function

    def get_input_embeddings(self) -> nn.Module:
        scope = input_embedding(self.program)
        if scope is None:
            raise NotImplementedError("it has no embedding module: nothing looks up its token ids")
        return self.get_submodule(scope)

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.replace(input_embedding(self.program), value)

    def get_output_embeddings(self) -> nn.Module | None:
        """The layer that makes the logits; None where they are made with the weights of the embedding."""
        scope = output_layer(self.program)
        return None if scope is None else self.get_submodule(scope)

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.replace(output_layer(self.program), value)

    def replace(self, scope: str | None, value: nn.Module) -> None:
        if scope is None:
            raise NotImplementedError("this graphprune model has no such layer")
        parent, _, leaf = scope.rpartition(".")
        setattr(self.get_submodule(parent), leaf, value)

    def updated_graph(self) -> str:
        """The packed graph with the shapes that its tensors have now: embeddings may have been resized."""
        graph = unpack(self.config.graph)
        own = dict(self.named_parameters())
        changed = {n: list(own[n].shape) for n, (_, shape, _) in graph["tensors"].items() if n in own}
        changed = {name: shape for name, shape in changed.items() if shape != graph["tensors"][name][1]}
        for name, shape in changed.items():
            graph["tensors"][name][1] = shape
        return pack(graph) if changed else self.config.graph

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As in transformers; this file goes along, so that the folder loads without graphprune."""
        kind = "AutoModelForCausalLM" if self.can_generate() else "AutoModel"
        stem = Path(__file__).stem
        self.config.auto_map = {"AutoConfig": f"{stem}.GraphpruneConfig", kind: f"{stem}.{type(self).__name__}"}
        self.config.graph = self.updated_graph()
        super().save_pretrained(save_directory, *args, **kwargs)
        for name in (Path(__file__).name, "modules_graphprune.py", "program_graphprune.py"):
            source, target = Path(__file__).with_name(name), Path(save_directory) / name
            if target.resolve() != source.resolve():
                shutil.copyfile(source, target)


# Where a layer of a cache keeps its states: those that grow with their dimension of tokens, and those of a fixed size.
GROWING = {"key": ("keys", 2), "value": ("values", 2), "indexer": ("indexer_keys", 1)}
FIXED = {"conv": "conv_states", "recurrent": "recurrent_states"}
# The layers of a cache that do with states what the graph does; one with a sliding window would drop keys.
LAYERS = {
    "DynamicLayer",
    "StaticLayer",
    "DynamicIndexedLayer",
    "LinearAttentionLayer",
    "LinearAttentionAndFullAttentionLayer",
}


def held_tensors(layer: Any) -> Iterator[tuple[str, Tensor]]:
    """What a layer of a cache holds, by part: `key`, `value`, `indexer`, `conv`, `conv1`, `recurrent`."""
    for part, (attribute, _) in GROWING.items():
        if isinstance(getattr(layer, attribute, None), Tensor):
            yield part, getattr(layer, attribute)
    for part, attribute in FIXED.items():
        for index, tensor in getattr(layer, attribute, {}).items():
            if isinstance(tensor, Tensor):
                yield f"{part}{index or ''}", tensor


def store_fixed(layer: Any, part: str, tensor: Tensor) -> None:
    kind = part.rstrip("0123456789")
    index = int(part.removeprefix(kind) or 0)
    getattr(layer, FIXED[kind])[index] = tensor
    getattr(layer, f"is_{FIXED[kind]}_initialized")[index] = layer.has_previous_state[index] = True
    layer.device, layer.dtype = tensor.device, tensor.dtype
    if kind == "conv":
        layer.conv_kernel_size[index] = tensor.shape[-1]


class GraphpruneForCausalLM(GraphprunePreTrainedModel, GenerationMixin):
    """A decoder with a cache; layers may have any number of heads, or none, and states besides keys and values."""

    def __init__(self, config: GraphpruneConfig) -> None:
        super().__init__(config)
        layers: dict[str, list[str]] = {}
        for name in self.program.inputs:
            if name.startswith("past_key_values."):
                layers.setdefault(name.split(".")[1], []).append(name)
        self.caches = [{name.split(".")[2]: name for name in names} for names in layers.values()]
        self.grows = any("key" in names for names in self.caches)
        # Rows of ids that an example has, such as `4*batch`: streams of codes.
        self.rows = int(re.match(r"\d*", str(self.input_types["input_ids"][1][0]))[0] or 1)  # type: ignore[index]

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
            cache = cache_utils.DynamicCache(config=self.config)
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
        if not self.grows:  # no attention is left: what is stored has no length, the mask alone knows
            return 0 if mask is None else max(0, mask.shape[1] - ids.shape[1])
        return 0 if cache is None else int(cache.get_seq_length())

    def plain_inputs(self, ids: Tensor, mask: Tensor | None, positions: Tensor | None, past: int) -> dict[str, Tensor]:
        batch, length = ids.shape[0] // self.rows, ids.shape[1]
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
            held = dict(held_tensors(self.layer(cache, index))) if cache is not None else {}
            for part, name in names.items():
                grows = part in GROWING
                tensor = held.get(part) if past or not grows else None
                if tensor is None:
                    dtype, (_, *rest) = self.input_types[name]
                    sizes = [0 if isinstance(size, str) else size for size in rest]
                    dtype = self.dtype if dtype == self.captured else dtype
                    tensor = torch.zeros(ids.shape[0] // self.rows, *sizes, dtype=dtype, device=ids.device)
                inputs[name] = tensor.narrow(GROWING[part][1], 0, past) if grows else tensor
        return inputs

    def store(self, cache: Any, outputs: Mapping[str, Tensor], past: int) -> None:
        """Put the new states into the cache; a growing cache takes the tensors as they are."""
        for index, names in enumerate(self.caches):
            layer = self.layer(cache, index)
            new = {part: outputs[name.replace("past_key_values.", "present.")] for part, name in names.items()}
            if type(layer) is cache_utils.StaticLayer:
                cache.update(*(new[part][:, :, past:].to(self.dtype) for part in ("key", "value")), index)
                continue
            if "key" in new and not layer.is_initialized:
                layer.lazy_initialization(new["key"], new["value"])
            for part, tensor in new.items():
                if part in GROWING:
                    setattr(layer, GROWING[part][0], tensor.to(self.dtype))
                else:
                    store_fixed(layer, part, tensor)

    def layer(self, cache: Any, index: int) -> Any:
        layer = cache.layers[index]
        if cache.offloading or type(layer).__name__ not in LAYERS:
            raise ValueError("a graphprune model takes a DynamicCache or a StaticCache made with its own configuration")
        return layer

    def create_masks_for_generate(self, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
        return attention_mask  # the graph makes its own causal mask from the two-dimensional one

    def _valid_auto_compile_criteria(self, *args: Any, **kwargs: Any) -> bool:
        return False  # the filled length of a static cache is read as a number

    def _get_static_cache_init_shape(self) -> tuple[list[int], list[int]]:
        shapes = [self.input_types[names["key"]][1] for names in self.caches]
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
