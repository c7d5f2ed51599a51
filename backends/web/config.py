"""What transformers.js reads of a model beside its graph: a type that it knows, and where the weights are.

Read from huggingface/transformers.js 4.3.2: src/configs.js (`getCacheNames`), src/models/registry.js.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from graphprune.errors import ExportError

if TYPE_CHECKING:
    from graphprune.ir.graph import Graph

# Types that it opens as decoders whose cache is `past_key_values.N.key` and `.value`, with positions from 0.
KNOWN = frozenset([
    "apertus", "arcee", "bloom", "codegen", "cohere", "cohere2", "ernie4_5", "exaone", "falcon", "gemma", "gemma2",
    "glm", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_oss", "gptj", "granite", "helium", "hunyuan_v1_dense",
    "llama", "ministral", "mistral", "mobilellm", "mpt", "nanochat", "olmo", "olmo2", "olmo3", "opt", "phi", "phi3",
    "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2", "vaultgemma",
])  # fmt: skip
OTHERS = "llama"  # whose class does no more than to run a session with such a cache
_HALF = {"fp16": "float16", "q4f16": "float16"}


def check_source(graph: "Graph") -> None:
    """Raise ExportError for what is no decoder that takes one row of ids and keeps keys and values."""
    from graphprune.ir.contract import is_attended, is_state, rows_of_ids

    states = [name for name in graph.inputs if is_state(name)]
    if graph.source.kind != "decoder" or not states or rows_of_ids(graph) != 1:
        raise ExportError("web is written for language models with a cache of keys and values; write onnx")
    other = next((name for name in states if not is_attended(name)), None)
    if other is not None:
        raise ExportError(f"web is written for caches of keys and values, and this model keeps {other}; write onnx")


def write_config(graph: "Graph", folder: Path, dtype: str, chunks: Mapping[str, int]) -> Path:
    """Write config.json: the source's plain fields, the layers that the graph names, and transformers.js_config."""
    from graphprune.backends.huggingface.files import write_json
    from graphprune.backends.huggingface.generic_checkpoint import plain_fields
    from graphprune.ir.contract import is_state

    own = {**plain_fields(graph), "transformers.js_config": loading(dtype, chunks)}
    config = graph.source.config
    named = "llama" if config is None else config.get_text_config().model_type
    kept = {name: graph.placeholders[name].meta["value"].shape for name in graph.inputs if is_state(name)}
    own |= {
        "model_type": named if named in KNOWN else OTHERS,
        "source_model_type": named,
        "architectures": [graph.source.architecture or "LlamaForCausalLM"],
        "num_hidden_layers": 1 + max(int(name.split(".")[1]) for name in kept),
        "num_key_value_heads": max(int(shape[1]) for shape in kept.values()),
        "head_dim": max(int(shape[3]) for shape in kept.values()),
    }
    return write_json(folder / "config.json", own)


def loading(dtype: str, chunks: Mapping[str, int]) -> dict[str, object]:
    """How the files are to be loaded: which by itself, and how many others have the weights of each."""
    said: dict[str, object] = {"kv_cache_dtype": _HALF}
    said |= {"dtype": dtype} if dtype else {}
    return said | ({"use_external_data_format": dict(chunks)} if chunks else {})
