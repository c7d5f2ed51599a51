"""Models larger than memory: what a compilation holds and how long each stage takes, on shapes with random weights.

    python benchmarks/large_models.py --work FOLDER [--only words 0.3B 1B 3B 8B] [--memory 12GB [1TB ...]]
        [--target-params 1B] [--samples 32] [--length 64] [--method taylor] [--threads 2] [--tokenizer FOLDER]

Makes the shapes in FOLDER (bf16, one file a layer; 1B, 3B and 8B are those of Llama 3, `words` has 262,144) and
compiles each to that size, once with each amount of memory, as a user would, in a process of its own whose memory is
looked at twenty times a second. With 1TB the weights are in memory. A method may be a file with a recipe. The
tokenizer's FOLDER is a model's, with fewer tokens than the shape has words. Prints a line when a stage ends, and a
table; its seconds are of the clock and of the processor.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Shape:
    """A Llama's sizes, and whether its head is its embeddings."""

    width: int
    inner: int
    layers: int
    heads: int
    head: int
    words: int = 128_256
    tied: bool = True
    keys: int = 8


SHAPES = {
    "0.3B": Shape(1024, 4096, 16, 16, 64, 49_152, False),
    "words": Shape(640, 2048, 18, 10, 64, 262_144, keys=2),
    "1B": Shape(2048, 8192, 16, 32, 64),
    "3B": Shape(3072, 8192, 28, 24, 128),
    "8B": Shape(4096, 14336, 32, 32, 128, tied=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=tuple(SHAPES), default=tuple(SHAPES))
    parser.add_argument("--memory", nargs="+", default=["12GB"])
    parser.add_argument("--target-params", default="1B")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--method", default="taylor")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--backends", default="huggingface")
    parser.add_argument("--tokenizer", type=Path, default=Path("/tmp/real-smol"))
    arguments = parser.parse_args()
    for name in arguments.only:
        folder = arguments.work / name
        if not (folder / "config.json").is_file():
            make(SHAPES[name], folder)
            for path in arguments.tokenizer.glob("tokenizer*.json"):
                shutil.copyfile(path, folder / path.name)
        if arguments.here:
            print(compile_shape(folder, arguments))
            continue
        for memory in arguments.memory:
            again = [sys.executable, __file__, *sys.argv[1:], "--only", name, "--memory", memory, "--here"]
            subprocess.run(again, check=True, env={**os.environ, "OMP_NUM_THREADS": str(arguments.threads)})


def make(shape: Shape, folder: Path) -> None:
    """Write a checkpoint with random weights, a file for each layer; its configuration comes last."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    draw, index = torch.Generator().manual_seed(0), dict[str, str]()

    def weights(*sizes: int) -> torch.Tensor:
        return torch.empty(*sizes, dtype=torch.bfloat16).normal_(0, 0.02, generator=draw)

    def put(tensors: dict[str, torch.Tensor]) -> None:
        name = f"model-{len(set(index.values())):05d}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        index.update(dict.fromkeys(tensors, name))

    ones = torch.ones(shape.width, dtype=torch.bfloat16)
    put({"model.embed_tokens.weight": weights(shape.words, shape.width), "model.norm.weight": ones})
    if not shape.tied:
        put({"lm_head.weight": weights(shape.words, shape.width)})
    sizes = {
        "self_attn.q_proj": (shape.heads * shape.head, shape.width),
        "self_attn.k_proj": (shape.keys * shape.head, shape.width),
        "self_attn.v_proj": (shape.keys * shape.head, shape.width),
        "self_attn.o_proj": (shape.width, shape.heads * shape.head),
        "mlp.gate_proj": (shape.inner, shape.width),
        "mlp.up_proj": (shape.inner, shape.width),
        "mlp.down_proj": (shape.width, shape.inner),
    }
    for layer in range(shape.layers):
        made = {f"model.layers.{layer}.{name}.weight": weights(*size) for name, size in sizes.items()}
        norms = ("input_layernorm", "post_attention_layernorm")
        put({**made, **{f"model.layers.{layer}.{name}.weight": ones.clone() for name in norms}})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.keys,
        "head_dim": shape.head,
        "vocab_size": shape.words,
        "tie_word_embeddings": shape.tied,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-5,
        "dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))


@dataclass
class Watch:
    """The most memory and the seconds of each stage, of this process and of those that it starts."""

    stage: str = "start"
    peaks: dict[str, tuple[int, int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    processor: dict[str, float] = field(default_factory=dict)
    before: float = 0.0
    children: list[int] = field(default_factory=list)

    def begin(self, name: str, *_: object, **__: object) -> None:
        """What `compile` tells its progress."""
        if name != self.stage:
            self.end()
            print(self.line(self.stage), flush=True)
            self.stage = name

    def end(self) -> None:
        """Count what the processor did for the present stage."""
        spent = os.times()
        now = spent.user + spent.system + spent.children_user + spent.children_system
        self.processor[self.stage] = self.processor.get(self.stage, 0) + now - self.before
        self.before = now

    def line(self, stage: str) -> str:
        own, child = (f"{each / 2**30:.2f}" for each in self.peaks.get(stage, (0, 0)))
        return f"| {stage} | {self.seconds.get(stage, 0):.0f} | {self.processor.get(stage, 0):.0f} | {own} | {child} |"

    def look(self) -> None:
        for turn in range(1 << 40):
            if turn % 20 == 0:
                self.children = children()
            own, child = self.peaks.get(self.stage, (0, 0))
            most = max((resident(each) for each in self.children), default=0)
            self.peaks[self.stage] = max(own, resident(os.getpid())), max(child, most)
            self.seconds[self.stage] = self.seconds.get(self.stage, 0) + 0.05
            time.sleep(0.05)


def resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096
    except (OSError, IndexError):
        return 0


def children() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.append(int(path.parent.name))
    return found


def compile_shape(folder: Path, arguments: argparse.Namespace) -> str:
    from graphprune.compiler.compile import compile_model
    from graphprune.pipeline.options import CompileOptions

    out, watch, began = folder.with_name(f"{folder.name}-small"), Watch(), time.time()
    shutil.rmtree(out, ignore_errors=True)
    options = CompileOptions(
        str(folder),
        arguments.target_params,
        out,
        method=arguments.method,
        samples=arguments.samples,
        length=arguments.length,
        memory=arguments.memory[0],
        backends=tuple(arguments.backends.split(",")),
    )
    threading.Thread(target=watch.look, daemon=True).start()
    result = compile_model(options, watch.begin)
    size = next(each for each in result.measures if each.name == "parameters")
    watch.end()
    stages = "\n".join(watch.line(stage) for stage in watch.seconds)
    head = "| stage | s | processor s | GiB | GiB of the check |\n|---|---:|---:|---:|---:|"
    told = f"{size.before:,.0f} parameters to {size.after:,.0f} with --memory {arguments.memory[0]}"
    return f"{told}: {time.time() - began:.0f} s, {watch.before:.0f} s of the processor\n\n{head}\n{stages}\n"


if __name__ == "__main__":
    main()
