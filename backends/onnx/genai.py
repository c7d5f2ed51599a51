"""The configuration with which onnxruntime-genai (0.15 or newer) opens an exported decoder."""

import json
from pathlib import Path

from graphprune.ir.contract import context_length, is_attended, is_state, rows_of_ids
from graphprune.ir.graph import Graph
from graphprune.ir.types import TensorType, tensor_type


def write_genai_config(graph: Graph, folder: Path, shared: bool = False) -> list[Path]:
    """Write genai_config.json for a decoder with a cache; nothing for any other graph.

    genai knows keys and values, of one size in a layer, so there is none either where a layer keeps anything else, nor
    where a text is told in several rows of codes.
    `shared` lets genai keep past and present of a layer in one buffer, which the model's attention must be able to do.
    """
    if graph.source.config is None or not cache_types(graph) or not equal_parts(graph) or rows_of_ids(graph) > 1:
        return []
    path = folder / "genai_config.json"
    path.write_text(json.dumps(genai_config(graph, shared), indent=2) + "\n", encoding="utf-8")
    return [path]


def genai_config(graph: Graph, shared: bool = False) -> dict[str, object]:
    """The settings as genai's strict parser takes them.

    Heads and head sizes are the largest of any layer: genai reads each layer's own from the model's inputs.
    """
    context = context_length(graph) or 2048
    vocabulary = int(tensor_type(graph.results["logits"]).shape[-1])
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": "model.onnx",
        **decoder_sizes(graph),
        "inputs": model_inputs(graph),
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    model: dict[str, object] = {"type": "decoder", **special_tokens(graph)}  # which genai feeds as our contract says
    model |= {"context_length": context, "vocab_size": vocabulary, "decoder": decoder}
    search = {"max_length": min(context, 4096), "do_sample": False, "num_beams": 1, "past_present_share_buffer": shared}
    return {"model": model, "search": search}


def equal_parts(graph: Graph) -> bool:
    """Whether every layer keeps keys and values alone, with the same heads and sizes."""
    states = {name: tensor_type(node).shape[1::2] for name, node in graph.placeholders.items() if is_state(name)}
    keys = [name for name in states if name.endswith(".key")]
    return all(map(is_attended, states)) and all(
        states[name] == states[name.removesuffix("key") + "value"] for name in keys
    )


def cache_types(graph: Graph) -> dict[int, TensorType]:
    """The type of each layer's key cache, by layer number."""
    keys = {n: node for n, node in graph.placeholders.items() if is_attended(n) and n.endswith(".key")}
    return {int(name.split(".")[1]): tensor_type(node) for name, node in keys.items()}


def decoder_sizes(graph: Graph) -> dict[str, int]:
    types, config = cache_types(graph), graph.source.model_config.get_text_config()
    heads = max(int(t.shape[1]) for t in types.values())
    sizes = {"head_size": max(int(t.shape[3]) for t in types.values()), "hidden_size": config.hidden_size}
    sizes |= {"num_attention_heads": max(heads, config.num_attention_heads), "num_key_value_heads": heads}
    return sizes | {"num_hidden_layers": max(types) + 1}


def model_inputs(graph: Graph) -> dict[str, str]:
    plain = {name: name for name in graph.inputs if not is_state(name)}
    return plain | {"past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"}


def special_tokens(graph: Graph) -> dict[str, int | list[int]]:
    """Begin, end and padding tokens, from the generation configuration first; padding falls back to the first end."""
    found = {name: setting(graph, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    end = found["eos_token_id"]
    first = end[0] if isinstance(end, list) else end
    fallback = {"bos_token_id": first, "eos_token_id": 0, "pad_token_id": first}
    return {name: value if value is not None else fallback[name] or 0 for name, value in found.items()}


def setting(graph: Graph, name: str) -> int | list[int] | None:
    places = (graph.source.generation_config, graph.source.config)
    return next((v for v in (getattr(place, name, None) for place in places) if v is not None), None)
