"""The models of the sweep given to Torch-Pruning (pip install --no-deps torch-pruning), with the same task: half of it.

    python benchmarks/conformance_peer.py --suite causal

As its example for language models does: magnitude importance, half of the width and half of the heads, the output layer
ignored, `num_heads` said of every query, key and value projection that can be found by its name, no cache, and the
attributes of attention modules set anew afterwards. Each model runs in a process of its own. Results are in
OUT/conformance-peer.jsonl; conformance.py writes them into the page.
"""

import argparse
import contextlib
import copy
import json
import os
import resource
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

RESULTS = Path(__file__).parent / "results"
MEMORY = 12 << 30
QUERIES = ("q_proj", "query", "q", "q_lin", "wq", "to_q")
KEYS = ("k_proj", "key", "k", "k_lin", "v_proj", "value", "v", "v_lin", "wk", "wv", "to_k", "to_v")
FUSED = ("qkv_proj", "query_key_value", "qkv", "c_attn", "Wqkv", "in_proj", "attn_qkv", "att_proj")
HEADS = ("num_attention_heads", "num_heads", "n_head", "n_heads", "encoder_attention_heads", "decoder_attention_heads")
KEY_HEADS = ("num_key_value_heads", "num_kv_heads")


def examine(suite: str, name: str, class_name: str) -> dict[str, Any]:
    """What becomes of one model, up to the first thing that fails."""
    found: dict[str, Any] = {"key": f"{suite}/{name}", "version": version("torch-pruning"), "error": None}
    found |= dict.fromkeys(("pruned", "runs", "half", "masked"))
    began = time.perf_counter()
    try:
        run(found, name, class_name)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        found["error"] = f"{type(error).__name__}: {text}"
    found["seconds"] = round(time.perf_counter() - began, 1)
    return found


def run(found: dict[str, Any], name: str, class_name: str) -> None:
    model, inputs = make(name, class_name)
    found["parameters"] = count(model)
    found["pruned"] = False
    prune(model, inputs, whole=True)
    found["left"] = count(model)
    found["pruned"] = found["left"] < found["parameters"]
    found["half"] = found["left"] <= 0.75 * found["parameters"]
    found["runs"] = False
    with torch.no_grad():
        finite = bool(torch.isfinite(output(model, inputs)).all())
    found["runs"] = finite
    if found["pruned"] and finite:
        found["masked"] = equals_masked(name, class_name)


def make(name: str, class_name: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """The sweep's own model, and tensors to trace it with; a plain module's image has the name of its argument."""
    from conformance_configs import small_config
    from conformance_one import make_model
    from conformance_suites import plain_model

    if name.startswith(("torchvision/", "timm/")):
        module, size = plain_model(name)
        return module, {"x": torch.randn(2, 3, size, size)}
    from graphprune.models.encoder import model_inputs

    model = make_model(small_config(name.partition("/")[0], class_name), class_name)
    inputs, _ = model_inputs(model)
    model.config.use_cache = (
        False  # its issues 455 and 461: with a cache in the outputs, tracing goes wrong or never ends
    )
    if "input_ids" in inputs:  # a short text alone, as in its examples
        inputs = {n: t for n, t in inputs.items() if n.startswith("pixel")}
        inputs["input_ids"] = torch.randint(3, 60, (1, 5))
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.randint(3, 60, (1, 4))
    return model, inputs


def output(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the model is for: logits, of text to images or of classes."""
    result = model(**inputs) if hasattr(model, "config") else model(inputs["x"])
    if isinstance(result, torch.Tensor):
        return result
    names = ("logits", "logits_per_image", "image_embeds", "last_hidden_state", "itm_score")
    return next(result[name] for name in names if result.get(name) is not None)


def count(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def prune(model: Any, inputs: dict[str, torch.Tensor], whole: bool) -> dict[tuple[str, int], set[int]]:
    """Prune in place by half; without `whole`, only groups in which no norm stands. Returns what was cut, by module."""
    import torch_pruning as tp

    num_heads, pairs = heads_of(model)
    pruner = tp.pruner.BasePruner(
        model,
        example_inputs=inputs if hasattr(model, "config") else inputs["x"],
        importance=tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean"),
        global_pruning=False,
        pruning_ratio=0.5,
        head_pruning_ratio=0.5,
        num_heads=num_heads,
        prune_num_heads=True,
        prune_head_dims=False,  # as its example says: so that rotary embeddings need not be pruned
        out_channel_groups=pairs,
        ignored_layers=heads_to_ignore(model),
        forward_fn=(lambda m, x: output(m, x)) if hasattr(model, "config") else None,
    )
    names = {module: name for name, module in model.named_modules()}
    cut: dict[tuple[str, int], set[int]] = {}
    for group in pruner.step(interactive=True):
        if not whole and any(is_norm(dep.target.module) for dep, _ in group):
            continue
        for dep, indices in group:
            if dep.target.module in names and isinstance(dep.target.module, (nn.Linear, nn.Conv2d, nn.Conv1d)):
                dim = 0 if pruner.DG.is_out_channel_pruning_fn(dep.handler) else 1
                cut.setdefault((names[dep.target.module], dim), set()).update(indices)
        group.prune()
    set_attributes(model, pruner)
    return cut


def is_norm(module: Any) -> bool:
    return "norm" in type(module).__name__.lower() and not isinstance(module, nn.modules.batchnorm._BatchNorm)


def heads_of(model: Any) -> tuple[dict[nn.Module, int], dict[nn.Module, int]]:
    """The heads of each projection of queries, keys and values, and the projections that hold gate and up in one."""
    config, heads, pairs = getattr(model, "config", None), {}, {}
    for module in model.modules():
        own = number(module, HEADS) or number(config, HEADS)
        key = number(module, KEY_HEADS) or number(config, KEY_HEADS) or own
        for name, child in module.named_children():
            if name == "gate_up_proj":
                pairs[child] = 2
            if own and is_projection(child) and name in QUERIES + FUSED:
                heads[child] = own
            elif own and is_projection(child) and name in KEYS:
                heads[child] = key
    return heads, pairs


def is_projection(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.Conv2d))


def number(place: Any, names: tuple[str, ...]) -> int:
    return next((v for name in names if isinstance(v := getattr(place, name, None), int)), 0)


def heads_to_ignore(model: Any) -> list[nn.Module]:
    """The output layer: what makes logits of the vocabulary, or of the classes."""
    embeddings = None
    with contextlib.suppress(Exception):
        embeddings = model.get_output_embeddings()
    if embeddings is not None:
        return [embeddings]
    labels = getattr(getattr(model, "config", None), "num_labels", 10)
    return [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == labels]


def set_attributes(model: Any, pruner: Any) -> None:
    """What modules remember of their widths, as its examples set them after pruning."""
    for module in model.modules():
        children = dict(module.named_children())
        query = next((children[n] for n in QUERIES + FUSED if children.get(n) in pruner.num_heads), None)
        key = next((children[n] for n in KEYS if children.get(n) in pruner.num_heads), query)
        if query is None:
            continue
        heads, width = pruner.num_heads[query], query.weight.shape[0]
        width = width // 3 if any(children.get(n) is query for n in FUSED) else width
        new = dict.fromkeys(("num_heads", "num_attention_heads", "n_heads", "n_head"), heads)
        new |= dict.fromkeys(("num_key_value_heads", "num_kv_heads"), pruner.num_heads[key])
        new |= {"num_key_value_groups": heads // max(1, pruner.num_heads[key])}
        new |= dict.fromkeys(("hidden_size", "embed_dim", "all_head_size", "inner_dim", "split_size"), width)
        new |= dict.fromkeys(("head_dim", "attention_head_size"), width // max(1, heads))
        for attribute, value in new.items():
            if isinstance(getattr(module, attribute, None), int):
                setattr(module, attribute, value)


def equals_masked(name: str, class_name: str) -> bool:
    """Prune a fresh model, but nothing that a norm averages over, and compare with the model with zeros there."""
    torch.manual_seed(0)
    model, inputs = make(name, class_name)
    masked = copy.deepcopy(model)
    cut = prune(model, inputs, whole=False)
    with torch.no_grad():
        for (place, dim), indices in cut.items():
            zero(masked.get_submodule(place), dim, sorted(indices))
        return bool(cut) and torch.allclose(output(model, inputs), output(masked, inputs), rtol=1e-4, atol=1e-5)


def zero(module: Any, dim: int, indices: list[int]) -> None:
    """Zeros where channels were cut: rows and their bias, or columns."""
    if dim == 1 and module.weight.shape[1] <= max(indices):  # a convolution in groups counts channels of all groups
        return
    module.weight.index_fill_(dim, torch.tensor(indices), 0)
    if dim == 0 and module.bias is not None:
        module.bias.index_fill_(0, torch.tensor(indices), 0)


def in_process(suite: str, name: str, class_name: str, limit: int) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", __file__, "--limit", str(limit), "--one", suite, name, class_name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    base = {"key": f"{suite}/{name}", "version": version("torch-pruning"), "pruned": False, "runs": False}
    base |= {"half": None, "masked": None}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10 * limit, env=environment, check=False)
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return base | {"error": f"not done after {10 * limit} s"}
    except (IndexError, ValueError):
        if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            return base | {"error": f"not done after {limit} s of processor time"}
        return base | {"error": f"ended with {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1][:200]}"}


def main() -> None:
    from conformance_suites import TITLES, entries

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=list(TITLES), default="causal")
    parser.add_argument("--only", nargs="+", help="these alone, whatever is known of them")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--limit", type=int, default=60, help="seconds of processor time for one model")
    parser.add_argument("--one", nargs=3, metavar=("SUITE", "NAME", "CLASS"), help="print the result of one model")
    arguments = parser.parse_args()
    if arguments.one:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (arguments.limit, arguments.limit))
        torch.set_num_threads(1)
        print(json.dumps(examine(*arguments.one)), flush=True)
        return
    path = arguments.out / "conformance-peer.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    known = {entry["key"]: entry for entry in map(json.loads, lines)}
    for name, class_name in entries(arguments.suite).items():
        key = f"{arguments.suite}/{name}"
        if name in (arguments.only or []) if arguments.only else key not in known:
            known[key] = in_process(arguments.suite, name, class_name, arguments.limit)
            print({k: v for k, v in known[key].items() if k != "version"}, flush=True)
            path.write_text("".join(json.dumps(known[k]) + "\n" for k in sorted(known)), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
