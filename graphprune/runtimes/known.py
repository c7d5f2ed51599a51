"""The runtimes that `--for` knows, each with its limits and where they were read."""

from typing import Literal, get_args

from graphprune.runtimes.runtime import Limit, Runtime, Source

RuntimeName = Literal["vllm", "sglang", "mlx", "llama.cpp", "openvino", "executorch", "web"]
NAMES: tuple[RuntimeName, ...] = get_args(RuntimeName)

_VLLM = Source("vllm-project/vllm@00bd149 vllm/model_executor/models/nemotron_nas.py")
_SGLANG = Source("sgl-project/sglang@15a024d python/sglang/srt/models/nemotron_nas.py")
_SGLANG_CONFIG = Source("sgl-project/sglang python/sglang/srt/configs/model_config.py, get_total_num_kv_heads")
_MLX = Source("ml-explore/mlx-lm@269906b mlx_lm/models/openelm.py")
_LLAMA = Source("llama.cpp b11549 src/models/deci.cpp, run here", "2026-11-29")
_EXECUTORCH = Source("transformers 5.23 integrations/executorch.py, run here", "2026-11-23")

_TILE = 64  # channels of a tile of tensor cores in two bytes
_ONE_SIZE = "one head size stands in the configuration, and rotations follow from it"


def block_limits(source: Source, kv: Source) -> tuple[Limit, ...]:
    """What DeciLM's block_configs leave out, wherever they are read."""
    return (
        Limit(
            "equal",
            ("query", "attention"),
            "num_attention_heads is one number for all layers, and key heads are that divided by n_heads_in_group; "
            "here a key head goes with its queries",
            kv,
        ),
        Limit("whole", ("head_dim",), _ONE_SIZE, source),
        Limit(
            "first",
            ("blocks", "layers"),
            "the norm that starts the residual sum is that of attention: the one before the MLP asks for a sum",
            source,
        ),
    )


RUNTIMES: tuple[Runtime, ...] = (
    Runtime(
        "vllm",
        "DeciLMForCausalLM (nemotron_nas)",
        "MLP channels, any number; attention, MLP or both absent",
        ("huggingface", "decilm"),
        "decilm/",
        "vllm serve OUT/decilm --trust-remote-code",
        "by the names and shapes that its loader asks for, and by running vLLM on a processor, make test-runtimes",
        block_limits(_VLLM, _VLLM),
        _TILE,
    ),
    Runtime(
        "sglang",
        "DeciLMForCausalLM (nemotron_nas)",
        "MLP channels in steps of 256; attention, MLP or both absent",
        ("huggingface", "decilm{multiple=256}"),
        "decilm/",
        "python -m sglang.launch_server --model-path OUT/decilm --trust-remote-code",
        "by the names and shapes that its loader asks for; not run here",
        (
            *block_limits(_SGLANG, _SGLANG_CONFIG),
            Limit(
                "multiple",
                ("mlp",),
                "ffn_mult is the only size that is read of an MLP, and what follows from it is rounded up to 256",
                _SGLANG,
                256,
            ),
        ),
        _TILE,
    ),
    Runtime(
        "mlx",
        "openelm",
        "query heads, key heads and MLP channels, any number; what is absent is written as the smallest one of zeros",
        ("huggingface", "openelm"),
        "openelm/",
        "mlx_lm.generate --model OUT/openelm",
        "by running it, where mlx-lm is installed, and by the names and shapes that its loader makes",
        (Limit("whole", ("head_dim",), _ONE_SIZE, _MLX),),
    ),
    Runtime(
        "llama.cpp",
        "deci, or llama where layers are equal",
        "query heads, key heads and MLP channels, any number; attention absent; an absent MLP is 32 channels of zeros",
        ("huggingface", "gguf"),
        "gguf/model-f16.gguf",
        "llama-cli -m OUT/gguf/model-f16.gguf",
        "by running it, where llama-cpp-python or xllamacpp is installed",
        (Limit("whole", ("head_dim",), _ONE_SIZE, _LLAMA),),
    ),
    Runtime(
        "openvino",
        "none: it reads the ONNX graph",
        "everything",
        ("huggingface", "onnx"),
        "onnx/model.onnx",
        'openvino.Core().compile_model("OUT/onnx/model.onnx")',
        "by running it, benchmarks/other_runtimes.py",
    ),
    Runtime(
        "executorch",
        "the source's own, through transformers' exporter",
        "nothing",
        ("huggingface{form=stock}",),
        "./",
        "transformers.integrations.executorch, see docs/runtimes.md",
        "by running it, benchmarks/other_runtimes.py",
        (
            Limit(
                "stock",
                ("mlp", "attention", "query", "head_dim", "residual"),
                "the exporter traces the source's own class, and has no way into the generic one",
                _EXECUTORCH,
            ),
        ),
    ),
    Runtime(
        "web",
        "none: transformers.js >= 4.2 reads each layer's cache from the ONNX graph",
        "everything",
        ("huggingface", "web"),
        "web/",
        'pipeline("text-generation", "web") of @huggingface/transformers',
        "by running it, benchmarks/web_runtime.py",
    ),
)


def find_runtime(name: str) -> Runtime:
    """The runtime of a name that is known."""
    return next(runtime for runtime in RUNTIMES if runtime.name == name)
