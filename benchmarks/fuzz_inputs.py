"""The inputs of fuzz.py: for each group, what is damaged and the command that is given it."""

import base64
import json
import shutil
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fuzz_damage import (
    DEEP,
    NASTY_TEXTS,
    Draw,
    damage_file,
    damage_json_file,
    damaged_bytes,
    damaged_json,
    write_text,
)

from graphprune.generic.program_graphprune import unpack

Line = list[str]

SIZES = (
    "60%", "1k", "0%", "100%", "101%", "1e3", "50", "-3", "6e", "1B",
    "2x", "0.5x", "1MB", "onnx:1MB", "zz:1MB", "1,000", "∞",
)  # fmt: skip


def whole_or_nasty(draw: Draw, *good: str) -> str:
    return draw.choice(NASTY_TEXTS) if draw.random() < 0.6 else draw.choice(good)


def amount_of_memory(draw: Draw) -> str:
    return whole_or_nasty(draw, "12GB", "0", "0GB", "1", "2MB", "-1GB", "64MB", "1e30GB", "12", "GB", "50%", "1.5TB")


OPTIONS: Mapping[str, Callable[[Draw], str]] = {
    "--target-params": lambda d: whole_or_nasty(d, *SIZES),
    "--target-size": lambda d: whole_or_nasty(d, *SIZES),
    "--target-kv-bytes": lambda d: whole_or_nasty(d, *SIZES),
    "--target-speed": lambda d: whole_or_nasty(d, *SIZES),
    "--vocabulary": lambda d: whole_or_nasty(d, *SIZES),
    "--prune": lambda d: whole_or_nasty(d, "mlp", "mlp,attention", "auto", "blocks", "vocabulary"),
    "--round-to": lambda d: whole_or_nasty(d, "8", "auto"),
    "--min-units": lambda d: whole_or_nasty(d, "2", "99999999"),
    "--floor": lambda d: whole_or_nasty(d, "0.2", "1", "nan"),
    "--method": lambda d: whole_or_nasty(d, "taylor", "adapt-pruner-ls", "adapt-accel"),
    "--importance": lambda d: whole_or_nasty(d, "magnitude", "taylor{order=2}", "random{seed=3}"),
    "--allocation": lambda d: whole_or_nasty(d, "uniform", "global", "knapsack", "adaptive{base=0.5}"),
    "--compensation": lambda d: whole_or_nasty(d, "none", "bias", "least-squares{ridge=nan}"),
    "--steps": lambda d: whole_or_nasty(d, "2", "0"),
    "--statistics": lambda d: whole_or_nasty(d, "exact", "survivors"),
    "--set": lambda d: whole_or_nasty(
        d, "prune.steps=2", "prune={}", "recover=[1]", "a.b.c=1", "name=*x", "stages=1e9"
    ),
    "--seed": lambda d: whole_or_nasty(d, "1", "-1", "18446744073709551616"),
    "--samples": lambda d: whole_or_nasty(d, "4", "99999999999"),
    "--length": lambda d: whole_or_nasty(d, "16", "1"),
    "--data": lambda d: whole_or_nasty(d, "text.txt", "nothing.jsonl"),
    "--field": lambda d: whole_or_nasty(d, "text"),
    "--device": lambda d: whole_or_nasty(d, "cpu", "cuda:99", "gpu", "cpu:x"),
    "--memory": amount_of_memory,
    "--backends": lambda d: whole_or_nasty(d, "onnx", "ort{precision=int4}", "onnx,onnx", "gguf{type=x}"),
    "--lr": lambda d: whole_or_nasty(d, "1e-3", "inf"),
    "--train-tokens": lambda d: whole_or_nasty(d, "2M", "0"),
    "--stages": lambda d: whole_or_nasty(d, "2"),
}


def put(base: Path, name: str, folder: Path) -> Path:
    """A copy of a whole model to be damaged."""
    target = folder / name
    shutil.copytree(base / name, target)
    return target


def options(draw: Draw, base: Path, folder: Path) -> Line:
    shutil.copy(base / "text.txt", folder / "text.txt")
    line = ["compile", str(base / "model"), "-o", str(folder / "out"), "--dry-run"]
    if draw.random() < 0.7:
        line += ["--target-params", draw.choice(("70%", "60%"))]
    for name in draw.sample(sorted(OPTIONS), draw.randrange(1, 4)):
        line += [name, OPTIONS[name](draw)]
    return line


def names(draw: Draw, base: Path, folder: Path) -> Line:
    """Anything in place of a model, a folder, a text, a plan or a command."""
    any_name = draw.choice((*NASTY_TEXTS, "nowhere", "a/b/c", str(base / "text.txt"), str(base), "demo/x", "/dev/null"))
    return draw.choice((
        ["compile", any_name, "-o", str(folder / "out"), "--target-params", "60%"],
        ["compile", str(base / "model"), "-o", any_name, "--target-params", "60%", "--data", "nothing.txt"],
        ["inspect", any_name],
        ["explain", str(base / "model"), any_name, any_name],
        ["verify", any_name],
        ["generate", any_name, "the cat"],
        ["generate", str(base / "generic"), any_name, "--tokens", "2"],
        ["generate", str(base / "generic"), "the", "--variant", any_name],
        ["bench", any_name],
        ["eval", any_name, "--data", str(base / "text.txt"), "--bytes", "500"],
        ["eval", str(base / "model"), "--data", any_name, "--bytes", "500"],
        ["apply", any_name, str(base / "model"), "-o", str(folder / "out")],
        ["list", any_name],
        [any_name, any_name],
    ))  # fmt: skip


def configs(draw: Draw, base: Path, folder: Path) -> Line:
    target = put(base, "model", folder)
    damage_json_file(
        draw, target / draw.choice(("config.json", "config.json", "config.json", "generation_config.json"))
    )
    return look(draw, base, target)


def look(draw: Draw, base: Path, target: Path) -> Line:
    """A command that reads a model's folder."""
    text = ["--data", str(base / "text.txt"), "--bytes", "300"]
    return draw.choice(
        (
            ["inspect", str(target)],
            ["eval", str(target), *text],
            ["compile", str(target), "--target-params", "60%", "--dry-run"],
        )
    )


def headers(draw: Draw, base: Path, folder: Path) -> Line:
    target = put(base, "model", folder)
    path = target / "model.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    if draw.random() < 0.7:
        header = damaged_json(draw, data[8 : 8 + size].decode()).encode("utf-8", "surrogatepass")
        length = draw.choice((len(header), len(header), len(header), 2**63, 0, len(header) + 8))
        path.write_bytes(struct.pack("<Q", length) + header + data[8 + size :])
    elif draw.random() < 0.5:
        damage_file(draw, path)
    else:
        index = {
            "weight_map": {
                "lm_head.weight": draw.choice(("model.safetensors", "../x", "/etc/passwd", "", 3, None, "a" * 400))
            }
        }
        write_text(target / "model.safetensors.index.json", damaged_json(draw, json.dumps(index)))
    return ["eval", str(target), "--data", str(base / "text.txt"), "--bytes", "300"]


def tokenizers(draw: Draw, base: Path, folder: Path) -> Line:
    target = put(base, "model", folder)
    damage_json_file(draw, target / draw.choice(("tokenizer.json", "tokenizer.json", "tokenizer_config.json")))
    return ["eval", str(target), "--data", str(base / "text.txt"), "--bytes", "300"]


def generic_graphs(draw: Draw, base: Path, folder: Path) -> Line:
    target = put(base, "generic", folder)
    path = target / "config.json"
    config = json.loads(path.read_text())
    way = draw.random()
    if way < 0.6:
        text = damaged_json(draw, json.dumps(unpack(config["graph"])))
        data = zlib.compress(text.encode("utf-8", "surrogatepass"))
        config["graph"] = base64.b64encode(data).decode() if draw.random() < 0.95 else text
        write_text(path, json.dumps(config))
    elif way < 0.8:
        damage_json_file(draw, path)
    else:
        damage_file(draw, target / "model.safetensors")
    faces = ["--backend", draw.choice(("graph", "checkpoint"))]
    return draw.choice(
        (["inspect", str(target)], ["eval", str(target), "--data", str(base / "text.txt"), "--bytes", "300", *faces])
    )


def onnx_files(draw: Draw, base: Path, folder: Path) -> Line:
    target = put(base, "generic", folder)
    damage_file(draw, draw.choice([path for path in sorted((target / "onnx").iterdir()) if path.suffix != ".json"]))
    if draw.random() < 0.3:
        return ["eval", str(target), "--backend", "onnx", "--data", str(base / "text.txt"), "--bytes", "300"]
    return ["generate", str(target), "the cat", "--tokens", "2"]


def genai_configs(draw: Draw, base: Path, folder: Path) -> Line:
    target = put(base, "generic", folder)
    named = draw.choice(
        (target / "onnx" / "genai_config.json", target / "config.json", target / "generation_config.json")
    )
    if named.exists():
        damage_json_file(draw, named)
    if named.parent.name == "onnx":
        (target / "config.json").unlink()
        return ["eval", str(target / "onnx"), "--backend", "onnx", "--data", str(base / "text.txt"), "--bytes", "300"]
    return ["generate", str(target), "the cat", "--tokens", "2"]


def plans(draw: Draw, base: Path, folder: Path) -> Line:
    text = (base / "plan.json").read_text()
    write_text(folder / "plan.json", damaged_json(draw, text))
    memory = ["--memory", amount_of_memory(draw)] if draw.random() < 0.3 else []
    line = ["apply", str(folder / "plan.json"), str(base / "model"), "-o", str(folder / "out")]
    return [*line, "--backends", "huggingface", *memory]


def memories(draw: Draw, base: Path, folder: Path) -> Line:
    """Amounts of memory, good and bad, with devices and backends, of whole compilations and replays."""
    model, out = str(base / "model"), ["-o", str(folder / "out")]
    memory = ["--memory", amount_of_memory(draw)]
    rest = draw.choice(([], ["--backends", "huggingface"], ["--backends", "huggingface,onnx"]))
    if draw.random() < 0.3:
        return ["apply", str(base / "plan.json"), model, *out, *memory, *rest]
    device = draw.choice(([], [], ["--device", "cpu"], ["--device", "cuda"], ["--device", "cuda:0"]))
    method = draw.choice((["--importance", "magnitude"], ["--method", "magnitude-sp"], ["--method", "taylor"]))
    text = ["--data", str(base / "text.txt"), "--samples", "2", "--length", "8"]
    dry = draw.choice(([], *[["--dry-run"]] * 7))
    return ["compile", model, *out, "--target-params", "80%", *text, *method, *memory, *device, *rest, *dry]


RECIPE = (
    "name: mine\nsummary: x\ncalibration: {samples: 2, length: 8}\n"
    "prune: {importance: magnitude, kinds: [mlp]}\nstages: 1\n"
)
YAMLS = (
    "a: &a [*a]\nname: x", "x0: &x0 [1]\n" + "\n".join(f"x{n}: &x{n} [*x{n - 1}, *x{n - 1}]" for n in range(1, 40)),
    "{" * DEEP, "[" * DEEP, "name: [", "- a", "3", "", "name: 2020-01-01", "name: x\n? [a]\n: b",
    "name: !!python/object:os.system x", "name: x\nstages: .inf", "name: x\nstages: 99999999999999999999",
    "name: x\nprune: {steps: .nan}", "name: x\nrecover: {tokens: 1M, lr: .inf}", "name: x\nprune: {kinds: [[a]]}",
    "name: x\nbefore: [taylor]", "name: x\nafter: ['prune{kinds=[vocabulary]}']", "name: \"\\ud800\"", "\x00",
    "\x01name: x", "1: 2\nname: x", "name: x\nrecover: {tokens: [1]}", "name: x\nrecover: 3",
    "name: x\ncalibration: {samples: 1e9}", "name: x\nprune: {importance: 'taylor{order=[[['}",
)  # fmt: skip


def recipes(draw: Draw, base: Path, folder: Path) -> Line:
    path = folder / draw.choice(("mine.yaml", "mine.yml"))
    way = draw.random()
    text = draw.choice(YAMLS) if way < 0.5 else RECIPE
    path.write_bytes(
        damaged_bytes(draw, text.encode("utf-8", "surrogatepass"))
        if way > 0.3
        else text.encode("utf-8", "surrogatepass")
    )
    return ["compile", str(base / "model"), "--dry-run", "--target-params", "70%", "--method", str(path)]


def data_files(draw: Draw, base: Path, folder: Path) -> Line:
    name = draw.choice(("text.txt", "records.jsonl", "records.json", "table.csv"))
    path = folder / draw.choice((name, name, name, "x.tsv", "x.parquet", "x.md", "x.json", "x.csv"))
    data = (base / name).read_bytes()
    first = data.split(b"\n")[0]
    if draw.random() < 0.5 and first.startswith(b"{"):
        rows = [damaged_json(draw, first.decode()) for _ in range(3)]
        write_text(path, "\n".join(rows))
    elif draw.random() < 0.5 and name == "records.json":
        write_text(path, damaged_json(draw, data.decode()))
    else:
        path.write_bytes(damaged_bytes(draw, data))
    return [
        "eval",
        str(base / "model"),
        "--data",
        str(path),
        "--bytes",
        "300",
        *draw.choice(([], ["--field", "input"])),
    ]


def gguf_files(draw: Draw, base: Path, folder: Path) -> Line:
    data = b"GGUF" + struct.pack("<IQQ", 3, draw.choice((0, 1, 2**60)), draw.choice((0, 3, 2**60))) + bytes(64)
    (folder / "gguf").mkdir()
    shutil.copy(base / "model" / "config.json", folder / "gguf")
    (folder / "gguf" / "model.gguf").write_bytes(damaged_bytes(draw, data))
    target = folder / "gguf" / draw.choice(("", "model.gguf"))
    return draw.choice(
        (
            ["compile", str(target), "-o", str(folder / "out"), "--target-params", "60%"],
            ["inspect", str(target)],
            ["generate", str(target), "the"],
        )
    )


RUNS = (
    *YAMLS, "model: demo\nmodel: x", "model: [a]", "model: demo\nset: {a: {b: [c]}}", "model: demo\nset: 3",
    "model: demo\nsamples: 1e9", "model: demo\nlr: .nan", "model: demo\nprotect: a", "model: demo\nout: \"\\0\"",
    "model: demo\ntrust-remote-code: true", "model: ~\n", "model: demo\ndata: a=1,b=2", "model: \"\\uD800\"",
)  # fmt: skip


def run_files(draw: Draw, base: Path, folder: Path) -> Line:
    path = folder / draw.choice(("run.yaml", "run.yml"))
    whole = f"model: {base / 'model'}\ntarget-params: 70%\nmethod: magnitude-sp\nprune: [mlp]\nseed: 3\n"
    data = (draw.choice(RUNS) if draw.random() < 0.4 else whole).encode("utf-8", "surrogatepass")
    path.write_bytes(damaged_bytes(draw, data) if draw.random() < 0.7 else data)
    return ["compile", str(path), "--dry-run", *draw.choice(([], ["--target-size", "1MB"], ["--steps", "2"]))]


def adapters(draw: Draw, base: Path, folder: Path) -> Line:
    made = folder / "adapter"
    made.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": str(base / "model"), "lora_alpha": 8, "use_rslora": False}
    config |= draw.choice(({}, {"alpha_pattern": {"q_proj": 2}}, {"bias": "all"}, {"init_lora_weights": "pissa"}))
    (made / "adapter_config.json").write_text(json.dumps(config))
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    header = json.dumps({name: {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}}).encode()
    weights = made / draw.choice(("adapter_model.safetensors",) * 4 + ("adapter_model.bin",))
    weights.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    damage_file(draw, weights) if draw.random() < 0.5 else damage_json_file(draw, made / "adapter_config.json")
    line = ["compile", str(made), "-o", str(folder / "out"), "--target-params", "70%", "--data", str(base / "text.txt")]
    return draw.choice((line, ["inspect", str(made)]))


# Each group, and how much of all inputs it has.
GROUPS: Sequence[tuple[Callable[[Draw, Path, Path], Line], int]] = (
    (options, 20), (names, 10), (configs, 10), (headers, 9), (tokenizers, 6), (generic_graphs, 8), (onnx_files, 6),
    (genai_configs, 4), (plans, 6), (recipes, 9), (data_files, 10), (gguf_files, 3), (memories, 2),
    (run_files, 6), (adapters, 4),
)  # fmt: skip
