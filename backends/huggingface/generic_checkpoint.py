"""Generic checkpoints: the graph in config.json, its tensors, and the file that runs it."""

import json
import shutil
from pathlib import Path

from torch import Tensor

from graphprune.backends.huggingface.files import write_json, write_tensors
from graphprune.generic import CODE, MODELING
from graphprune.generic.interfaces import Interface, interface_of
from graphprune.ir.contract import is_state
from graphprune.ir.graph import Graph
from graphprune.ir.serial import main_dtype, narrowest_dtype, stored_tensors, to_data, type_name
from graphprune.paths import stays_inside
from graphprune.weights.stored import narrowed

# What the graph already fixes, or what would make a cache believe in windows that the graph does not need.
_LEFT_OUT = frozenset([
    "architectures", "auto_map", "model_type", "transformers_version", "_name_or_path", "dtype", "torch_dtype",
    "sliding_window", "layer_types", "use_sliding_window", "attention_chunk_size", "per_layer_config",
    "kv_sharing_modes", "num_kv_shared_layers", "rope_scaling", "num_hidden_layers", "quantization_config",
    "is_encoder_decoder", "cache_implementation", "graph",
])  # fmt: skip


def write_generic(graph: Graph, folder: Path, shard_bytes: int) -> list[Path]:
    """Write the graph into config.json, its tensors, and the file that runs it."""
    paths = [write_json(folder / "config.json", generic_config(graph))]
    paths += write_tensors(narrowed_tensors(graph), folder, shard_bytes)
    for source in CODE:
        paths.append(Path(shutil.copyfile(source, folder / source.name)))
    generation = graph.source.generation_config
    own = (graph.source.files or folder) / "generation_config.json"
    has_own = own.is_file() and stays_inside(own, own.parent)
    if generation is not None and graph.source.kind in ("decoder", "seq2seq") and not has_own:
        write_json(folder / "generation_config.json", json.loads(generation.to_json_string()))
        paths.append(folder / "generation_config.json")
    return paths


def narrowed_tensors(graph: Graph) -> dict[str, Tensor]:
    """The tensors to store; parameters in the source's own type where that is exact."""
    main, narrow, parameters = main_dtype(graph), narrowest_dtype(graph), graph.parameters()
    stored = stored_tensors(graph).items()
    return {n: narrowed(t, narrow if n in parameters and t.dtype == main else t.dtype) for n, t in stored}


def generic_config(graph: Graph) -> dict[str, object]:
    """config.json of the generic form: the source's plain fields, the packed graph, and where its class is."""
    from graphprune.generic.modeling_graphprune import GraphpruneConfig
    from graphprune.generic.program_graphprune import pack

    interface = own_interface(graph)
    dtype = type_name(narrowest_dtype(graph))
    return {
        **plain_fields(graph),
        **label_fields(graph),
        "architectures": [interface.generic],
        "auto_map": {"AutoConfig": f"{MODELING}.GraphpruneConfig", interface.auto: f"{MODELING}.{interface.generic}"},
        "model_type": GraphpruneConfig.model_type,
        "is_encoder_decoder": interface.generic in ("GraphpruneForSeq2SeqLM", "GraphpruneForSpeechSeq2Seq"),
        **cache_fields(graph),
        "dtype": dtype,
        "torch_dtype": dtype,
        "source_architecture": graph.source.architecture or plain_fields(graph).get("source_architecture", ""),
        "graph": pack(to_data(graph)),
    }


def own_interface(graph: Graph) -> Interface:
    """How the source's class is called; that of a generic checkpoint is in its configuration."""
    config = graph.source.config
    known = [auto for auto in getattr(config, "auto_map", None) or {} if auto != "AutoConfig"]
    if config is not None and known and config.architectures and config.architectures[0].startswith("Graphprune"):
        return Interface(known[0], config.architectures[0])
    return interface_of(graph.source.architecture, graph.source.kind)


def label_fields(graph: Graph) -> dict[str, object]:
    """What the classes are called and what kind of problem they are, where the source says so."""
    config = graph.source.config
    known = {} if config is None else config.to_diff_dict()
    return {name: known[name] for name in ("id2label", "label2id", "problem_type") if known.get(name) is not None}


def cache_fields(graph: Graph) -> dict[str, object]:
    """What a cache is made from: how many layers keep something, and what, where it is not keys and values alone."""
    layers: dict[str, set[str]] = {}
    for name in filter(is_state, graph.inputs):
        layers.setdefault(name.split(".")[1], set()).add(name.split(".")[2])
    types = [layer_type(parts) for parts in layers.values()]
    if set(types) == {"linear_attention"}:  # transformers asks a cache for its length: this layer says none
        types.append("full_attention")
    count: dict[str, object] = {"num_hidden_layers": len(types)}
    if set(types) <= {"full_attention"}:
        return count
    windows = max(sum(part.startswith("conv") for part in parts) for parts in layers.values())
    return {**count, "layer_types": types, "number_of_conv_states": max(1, windows)}


def layer_type(parts: set[str]) -> str:
    """The name that transformers has for a cache layer with these parts."""
    if "key" not in parts:
        return "linear_attention"
    return "indexed_attention" if "indexer" in parts else "hybrid" if len(parts) > 2 else "full_attention"


def plain_fields(graph: Graph) -> dict[str, object]:
    """The numbers, texts and token ids of the source's configuration, under the common names as well as its own."""
    if graph.source.config is None:
        return {}
    config = graph.source.config.get_text_config()
    data = config.to_dict()
    fields = {key: value for key, value in data.items() if is_plain(value) and key not in _LEFT_OUT}
    for name in ("vocab_size", "hidden_size", "num_attention_heads", "max_position_embeddings"):
        own = config.attribute_map.get(name, name)  # what differs between layers cannot be read as an attribute
        value = data[own] if own in data else getattr(config, name, None)
        if isinstance(value, int):
            fields[name] = value
    # AutoTokenizer looks here where the tokenizer files name no class, as it did at the source's model type.
    fields.setdefault("tokenizer_class", tokenizer_class(graph.source.config.model_type))
    if "logits" in graph.outputs and graph.source.kind == "decoder":
        fields["vocab_size"] = int(graph.results["logits"].meta["value"].shape[-1])
    return fields


def tokenizer_class(model_type: str) -> str | None:
    """The tokenizer class that transformers takes for a model type, where it has one."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    return TOKENIZER_MAPPING_NAMES.get(model_type)


def is_plain(value: object) -> bool:
    numbers = isinstance(value, list) and all(isinstance(item, int) for item in value)
    return numbers or isinstance(value, (int, float, str, bool))
