"""A mixture of experts under a budget of weights: tokens a second and memory, resident, streamed and loaded naively.

    python benchmarks/offload.py --work FOLDER [--size 2GB] [--memory 500MB] [--prompt 64] [--tokens 16]
        [--skew 0] [--cold] [--only streamed]

Makes a Mixtral shape with random weights in float32 in FOLDER, 8 experts a layer of which a token has 2, with as many
layers as that size has. `resident` is transformers with everything in memory, `naive` reads an expert whenever a token
is routed to it, `streamed` is `--memory`, and `no look-ahead` is that without its thread. Each runs in a process of its
own with one torch thread: a prompt, then tokens one by one. Logits are compared by their digest. `weights` are the most
bytes of weights held, `memory` is the most that the process had above what it had after its imports. With `--skew` the
routers of all layers prefer experts, the first most, as trained ones do; with random weights they take all alike.
`--cold` has the system forget the file after every token, as one with less memory would; else it reads from its cache.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

WAYS = ("resident", "naive", "no look-ahead", "streamed")
WIDTH, INNER, EXPERTS, WORDS = 1024, 2816, 8, 16_000
LAYER = 4 * (3 * WIDTH * INNER * EXPERTS + 2 * WIDTH * WIDTH + WIDTH * WIDTH // 2)  # bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--size", default="2GB")
    parser.add_argument("--memory", default="500MB")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--skew", type=float, default=0.0)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--only", choices=WAYS, nargs="*", default=WAYS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.work / f"{arguments.size}-{arguments.skew:g}"
    if arguments.way:
        print(json.dumps(measure(folder, arguments)))
        return
    if not (folder / "config.json").is_file():
        make(folder, arguments.size, arguments.skew)
    found = {}
    for way in arguments.only:
        again = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        done = subprocess.run(
            again, check=True, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True
        )
        found[way] = json.loads(done.stdout.splitlines()[-1])
        print(way, found[way], file=sys.stderr)
    print(table(found))


def make(folder: Path, size: str, skew: float) -> None:
    """Write the checkpoint, a file a layer; its configuration comes last."""
    import torch
    import transformers
    from safetensors.torch import save_file

    from graphprune.amounts import read_bytes

    layers = max(1, round((read_bytes(size).value - 8 * WIDTH * WORDS) / LAYER))
    folder.mkdir(parents=True, exist_ok=True)
    places: dict[str, str] = {}
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * shape[-1] ** -0.5

    def write(name: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, folder / name, {"format": "pt"})
        places.update(dict.fromkeys(tensors, name))

    for layer in range(layers):
        at = f"model.layers.{layer}."
        kept = {f"self_attn.{n}_proj": draw(WIDTH // (1 if n in "qo" else 4), WIDTH) for n in "qkvo"}
        for expert in range(EXPERTS):
            sizes = {"w1": (INNER, WIDTH), "w2": (WIDTH, INNER), "w3": (INNER, WIDTH)}
            kept |= {f"block_sparse_moe.experts.{expert}.{n}": draw(*shape) for n, shape in sizes.items()}
        gate = draw(EXPERTS, WIDTH) * torch.linspace(1 + skew, 1, EXPERTS)[:, None]
        kept |= {"block_sparse_moe.gate": gate}
        kept |= {f"{norm}_layernorm": torch.ones(WIDTH) for norm in ("input", "post_attention")}
        write(f"layer-{layer}.safetensors", {f"{at}{n}.weight": t for n, t in kept.items()})
    ends = {"model.embed_tokens": draw(WORDS, WIDTH), "lm_head": draw(WORDS, WIDTH), "model.norm": torch.ones(WIDTH)}
    write("ends.safetensors", {f"{n}.weight": t for n, t in ends.items()})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    config = transformers.MixtralConfig(
        vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=layers, num_attention_heads=16,
        num_key_value_heads=4, num_local_experts=EXPERTS, num_experts_per_tok=2, dtype="float32",
        architectures=["MixtralForCausalLM"],
    )  # fmt: skip
    config.save_pretrained(folder)


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """What one way takes."""
    import torch
    import transformers

    from graphprune.offload.opening import open_offloaded

    torch.randn(8, 8) @ torch.randn(8, 8)
    before, most = resident_bytes(), Most()
    forget(folder)
    began = time.perf_counter()
    if arguments.way == "resident":
        model, residents = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval(), None
        weights = sum(parameter.nbytes for parameter in model.parameters())
    else:
        found = open_offloaded(folder, arguments.memory, ahead=arguments.way == "streamed")
        model, residents, weights = found.model, found.residents, found.always
        if arguments.way == "naive":
            residents.budget = max(origin.bytes for origin in residents.origins)
    opened = time.perf_counter() - began
    seconds, digest = run(model, folder, arguments)
    result: dict[str, Any] = {"open": opened, "prompt": arguments.prompt / seconds[0]}
    result |= {"decode": arguments.tokens / sum(seconds[1:]), "memory": most.stop() - before, "digest": digest}
    if residents is not None:
        loads = residents.loads()
        residents.close()
        result |= {"loads": loads.loads, "found": loads.found / loads.visits, "waited": loads.waited_seconds}
        result |= {"guessed": loads.guessed, "useless": loads.useless}
        weights += loads.peak
    return {**result, "weights": weights}


def run(model: Any, folder: Path, arguments: argparse.Namespace) -> tuple[list[float], str]:
    """Seconds of a prompt and of each token after it, and a digest of all logits."""
    import torch

    from graphprune.models.decoder import cache_arguments

    name = cache_arguments()[0]
    ids = torch.randint(WORDS, (1, arguments.prompt), generator=torch.Generator().manual_seed(1))
    seconds, digest, past = [], hashlib.sha256(), None
    for _ in range(1 + arguments.tokens):
        began = time.perf_counter()
        with torch.no_grad():
            made = model(ids, **{name: past}, use_cache=True)
        seconds.append(time.perf_counter() - began)
        past, ids = made[name], made.logits[:, -1:].argmax(-1)
        digest.update(made.logits.numpy().tobytes())
        if arguments.cold:
            forget(folder)
    return seconds, digest.hexdigest()[:12]


def forget(folder: Path) -> None:
    """Have the system drop what it holds of the files."""
    for path in folder.glob("*.safetensors"):
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Most:
    """The most memory that the process has had, looked at a hundred times a second."""

    def __init__(self) -> None:
        self.most, self.over = 0, threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()

    def look(self) -> None:
        while not self.over.wait(0.01):
            self.most = max(self.most, resident_bytes())

    def stop(self) -> int:
        self.over.set()
        self.thread.join()
        return self.most


def table(found: dict[str, dict[str, Any]]) -> str:
    lines = ["| way | prompt tokens/s | tokens/s | weights | memory | loads | found | logits |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|---|"]
    for way, row in found.items():
        sizes = f"{row['weights'] / 1e6:,.0f} MB | {row['memory'] / 1e6:,.0f} MB"
        loads = f"{row['loads']:,} | {row['found']:.0%}" if "loads" in row else "- | -"
        lines.append(f"| {way} | {row['prompt']:.2f} | {row['decode']:.3f} | {sizes} | {loads} | {row['digest']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
