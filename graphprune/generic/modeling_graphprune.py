"""Models whose layers have unequal widths, run from the operator graph in its config.

This file and those named like it stand alone: graphprune writes them beside the weights and transformers finds them
through `auto_map`.
"""

import contextlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel, cache_utils
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import ModelOutput

from .caches_graphprune import cache_names, read_past, require_past, store_present
from .configuration_graphprune import GraphpruneConfig as GraphpruneConfig  # its place for `auto_map`
from .modules_graphprune import Call, find_calls, input_embedding, make_module, output_layer, place_calls, scope_of
from .program_graphprune import Program, element_type, pack, unpack
from .tasks_graphprune import Untouched, complete, contract_inputs, task_loss, task_output

FILES = [f"{name}_graphprune.py" for name in ("modeling", "caches", "configuration", "modules", "program", "tasks")]


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
        stem, name = Path(__file__).stem, type(self).__name__
        known = [auto for auto in getattr(self.config, "auto_map", None) or {} if auto != "AutoConfig"]
        autos = known or ["AutoModel" + name.removeprefix("Graphprune").removeprefix("Model")]
        classes = dict.fromkeys(autos, f"{stem}.{name}")
        self.config.auto_map = {"AutoConfig": f"{stem}.GraphpruneConfig", **classes}
        self.config.graph = self.updated_graph()
        super().save_pretrained(save_directory, *args, **kwargs)
        for name in FILES:
            source, target = Path(__file__).with_name(name), Path(save_directory) / name
            if target.resolve() != source.resolve():
                shutil.copyfile(source, target)


class GraphpruneForCausalLM(GraphprunePreTrainedModel, GenerationMixin):
    """A decoder with a cache; layers may have any number of heads, or none, and states besides keys and values."""

    def __init__(self, config: GraphpruneConfig) -> None:
        super().__init__(config)
        self.caches = cache_names(self.program.inputs)
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
        cache: Any = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """As every causal language model; the cache is `past_key_values` before transformers 5.24 and `cache` since."""
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("a graphprune model takes input_ids; inputs_embeds are not supported")
        if attention_mask is not None and attention_mask.ndim != 2:
            raise ValueError("a graphprune model takes an attention mask of shape [batch, past + sequence]")
        use_cache = self.config.use_cache if use_cache is None else use_cache
        cache = past_key_values if cache is None else cache
        require_past(self.caches, cache, input_ids, attention_mask)
        if cache is None and use_cache:
            cache = cache_utils.DynamicCache(config=self.config)
        past = self.past_length(cache, input_ids, attention_mask)
        inputs = self.plain_inputs(input_ids, attention_mask, position_ids, past)
        inputs |= read_past(self.caches, cache, past, self.empty_states(input_ids.shape[0] // self.rows))
        outputs = self.execute(inputs)
        if cache is not None:
            store_present(self.caches, cache, outputs, past, self.dtype)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep  # -0 keeps all
        logits = outputs["logits"][:, kept, :]
        loss = None
        if labels is not None:
            options = {k: v for k, v in kwargs.items() if k in ("num_items_in_batch", "ignore_index", "shift_labels")}
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **options)
        return CausalLMOutputWithPast(loss, logits, cache if use_cache else None)  # by place: the field was renamed

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

    def empty_states(self, batch: int) -> dict[str, Tensor]:
        """The states before the first token."""
        states = {}
        for name in (name for names in self.caches for name in names.values()):
            dtype, (_, *rest) = self.input_types[name]
            sizes = [0 if isinstance(size, str) else size for size in rest]
            dtype = self.dtype if dtype == self.captured else dtype
            states[name] = torch.zeros(batch, *sizes, dtype=dtype, device=self.device)
        return states

    def create_masks_for_generate(self, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
        return attention_mask  # the graph makes its own causal mask from the two-dimensional one

    def _valid_auto_compile_criteria(self, *args: Any, **kwargs: Any) -> bool:
        return False  # the filled length of a static cache is read as a number

    def _get_static_cache_init_shape(self) -> tuple[list[int], list[int]]:
        shapes = [self.input_types[names["key"]][1] for names in self.caches]
        return [shape[1] for shape in shapes], [shape[3] for shape in shapes]


class GraphpruneModel(GraphprunePreTrainedModel):
    """A model without a cache: takes the graph's inputs by name and returns its outputs by name, with a loss.

    The name of a subclass says the task: which loss `labels` have, and which class of transformers holds the outputs.
    """

    def __init__(self, config: GraphpruneConfig) -> None:
        super().__init__(config)
        self.task = type(self).__name__.removeprefix("Graphprune")
        self.main_input_name = next(iter(self.program.inputs), "input_ids")

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        input_values: Tensor | None = None,
        input_features: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> ModelOutput | tuple[Any, ...]:
        given = {**kwargs, "input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        given |= {"pixel_values": pixel_values, "input_values": input_values, "input_features": input_features}
        given |= {"decoder_input_ids": decoder_input_ids}
        wanted = {"labels": labels, "start_positions": start_positions, "end_positions": end_positions}
        wanted = {name: tensor for name, tensor in wanted.items() if tensor is not None}
        outputs = self.execute(contract_inputs(complete(given, self.config, labels), self.input_types, self.dtype))
        options = {k: v for k, v in kwargs.items() if k in ("num_items_in_batch", "ignore_index")}
        loss = task_loss(self.task, outputs, self.config, wanted, options) if wanted else None
        result = task_output(self.task, outputs, loss)
        return result.to_tuple() if return_dict is False else result


class GraphpruneForSequenceClassification(GraphpruneModel):
    """One label, or one number, for each text."""


class GraphpruneForTokenClassification(GraphpruneModel):
    """A label for each token."""


class GraphpruneForQuestionAnswering(GraphpruneModel):
    """Where in the text the answer begins and where it ends."""


class GraphpruneForMultipleChoice(GraphpruneModel):
    """Which of several texts [batch, choices, sequence] fits."""


class GraphpruneForNextSentencePrediction(GraphpruneModel):
    """Whether one text follows on another."""


class GraphpruneForMaskedLM(GraphpruneModel):
    """Which tokens stand where the text has masks."""


class GraphpruneForImageClassification(GraphpruneModel):
    """A label for each image."""


class GraphpruneForVideoClassification(GraphpruneModel):
    """A label for each video."""


class GraphpruneForAudioClassification(GraphpruneModel):
    """A label for each sound."""


class GraphpruneForSeq2SeqLM(GraphpruneModel, GenerationMixin):
    """A text, sound or image in, a text out. It has no cache: each new token is computed from everything again."""

    def __init__(self, config: GraphpruneConfig) -> None:
        super().__init__(config)
        if hasattr(self, "encoder"):  # a part of the source model that holds weights; generate asks it
            self.encoder.main_input_name = self.main_input_name

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return Untouched()

    def prepare_inputs_for_generation(self, input_ids: Tensor, encoder_outputs: Any, **kwargs: Any) -> dict[str, Any]:
        given = {name: kwargs[name] for name in self.program.inputs if kwargs.get(name) is not None}
        return {**given, self.main_input_name: encoder_outputs[0], "decoder_input_ids": input_ids}

    def _supports_default_dynamic_cache(self) -> bool:
        return False

    def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        """Inputs are those of the graph, which the signature does not name."""


class GraphpruneForSpeechSeq2Seq(GraphpruneForSeq2SeqLM):
    """Speech in, what is said out."""
