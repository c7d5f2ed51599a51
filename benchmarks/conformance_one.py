"""One architecture through all stages: configuration, capture, eager, groups, oracle, rewrite, checkpoint, ONNX."""

import contextlib
import json
import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
MEMORY = 12 << 30
TOLERANCE = 1e-9


class Stages:
    """What is known of one architecture so far: stages that passed with their seconds, and the first that failed."""

    def __init__(self, name: str) -> None:
        self.found: dict[str, Any] = {"name": name, "seconds": {}, "failed": None, "error": None}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            last = next((f for f in reversed(frames) if "graphprune" in f.filename), frames[-1])
            text = " ".join(str(error).split())[:400]
            self.found |= {"failed": name, "error": f"{type(error).__name__}: {text}"}
            self.found["where"] = f"{Path(last.filename).name}:{last.lineno}"
            raise StageError from error
        self.found["seconds"][name] = round(time.perf_counter() - began, 2)


class StageError(Exception):
    """A stage failed; the rest is not tried."""


def examine(name: str, class_name: str) -> dict[str, Any]:
    """All that is found out about one architecture."""
    stages = Stages(name)
    stages.found["class"] = class_name
    with contextlib.suppress(StageError), tempfile.TemporaryDirectory() as folder:
        run(stages, name, class_name, Path(folder))
    return stages.found


def run(stages: Stages, name: str, class_name: str, folder: Path) -> None:
    found = stages.found
    with stages.stage("model"):
        model, source = make_source(name, class_name, folder / "source", found)
    from graphprune.analysis.analyse import analyze_axes

    with stages.stage("capture"):
        graph = source()
        found["nodes"], found["kind"] = len(graph.nodes), graph.source.kind
        found["derived"] = graph.source.derived_cache
    with stages.stage("eager"):
        check_eager(model, graph)
    with stages.stage("groups"):
        analysis = analyze_axes(graph)
        found |= describe(analysis.groups, graph)
    with stages.stage("oracle"):
        found["oracle"] = check_oracle(graph)
    with stages.stage("rewrite"):
        cut = cut_half(graph, analysis.groups)
        found["left"] = cut.parameter_count()
    check_faces(stages, cut, folder / "out")


def make_source(name: str, class_name: str, folder: Path, found: dict[str, Any]) -> tuple[Any, Callable[[], Any]]:
    """The model and what captures it: from its folder, or with an image where it is a plain module."""
    from conformance_configs import small_config
    from conformance_suites import plain_model

    from graphprune.frontend.source import capture

    if name.startswith(("torchvision/", "timm/")):
        module, size = plain_model(name)
        settle(module)
        found["parameters"] = sum(p.numel() for p in module.parameters())
        return module, lambda: capture(module, inputs={"image": torch.randn(2, 3, size, size)})
    model = make_model(small_config(name.partition("/")[0], class_name), class_name)
    found["parameters"] = sum(p.numel() for p in model.parameters())
    model.save_pretrained(folder)
    return model, lambda: capture(folder, dtype=torch.float32)


def make_model(config: Any, class_name: str) -> Any:
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, class_name)(config).eval()
    settle(model)
    return model


def check_eager(model: Any, graph: Any) -> None:
    """The graph against the model that it was captured from: other sizes, cached single tokens, padding on the left."""
    from graphprune.running import comparison

    if graph.source.kind != "module":
        with torch.no_grad():
            comparison.require(comparison.compare_models(model.float(), graph))
        return
    image = torch.randn(3, *next(iter(graph.placeholders.values())).meta["value"].shape[1:])
    with torch.no_grad():
        torch.testing.assert_close(graph(image)[0], model(image), rtol=1e-3, atol=1e-4)


def settle(model: Any) -> None:
    """Give matrices that start with equal entries random ones: routers that start at zero choose among equals."""
    for parameter in model.parameters():
        if parameter.ndim > 1 and parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
            torch.nn.init.normal_(parameter, std=0.02)


def describe(groups: Any, graph: Any) -> dict[str, Any]:
    """How much of the model is in prunable groups, by kind, and why the rest is locked."""
    prunable, parameters = groups.prunable(), graph.parameters()
    touched: dict[str, set[str]] = {}
    for group in prunable:
        touched.setdefault(group.kind, set()).update(slot.name for slot in group.slots if slot.name in parameters)
    sizes = {name: p.numel() for name, p in parameters.items()}
    whole = sum(sizes.values())
    covered = set().union(*touched.values()) if touched else set()
    locks = Counter(group.locked for group in groups.groups if group.locked)
    return {
        "kinds": {k: round(sum(sizes[n] for n in names) / whole, 3) for k, names in touched.items()},
        "prunable": round(sum(sizes[n] for n in covered) / whole, 4),
        "branches": len(groups.branches),
        "locks": dict(locks.most_common(6)),
    }


def halves(groups: Any) -> dict[str, tuple[int, ...]]:
    """A random half of the units of every prunable group, in multiples that kernels for experts can run on."""
    rng, keep = random.Random(0), {}
    for group in groups.prunable():
        half = group.units // 2 // group.multiple * group.multiple
        count = max(group.least, group.multiple, half)
        if count < group.units and group.kind != "vocabulary":
            keep[group.id] = tuple(sorted(rng.sample(range(group.units), count)))
    return keep


def fewest(groups: Any) -> dict[str, tuple[int, ...]]:
    """The least that may be left of every axis that is chosen from: fewer experts than a token had."""
    chosen = [group for group in groups.prunable() if group.chosen]
    return {group.id: tuple(range(group.units - group.least, group.units)) for group in chosen}


def check_oracle(graph: Any) -> float:
    """Every kind alone and all together, cut in half in float64, against the masked model; the largest difference.

    Also with as few experts as can be.
    """
    from graphprune.ir.plan import Plan
    from tests.support import oracle

    torch.set_default_dtype(torch.float64)  # what floats are made of integers are
    wide, analysis, masked = oracle.analyses(graph)
    keep, kinds = halves(analysis.groups), analysis.groups.by_id()
    plans = [Plan(each, statistics="exact") for each in (keep, fewest(analysis.groups)) if each]
    for kind in dict.fromkeys(kinds[id].kind for id in keep):
        plans.append(Plan({id: k for id, k in keep.items() if kinds[id].kind == kind}, statistics="exact"))
    worst = max(oracle.check_cut(wide, analysis, masked, plan, TOLERANCE) for plan in plans)
    torch.set_default_dtype(torch.float32)
    return worst


def cut_half(graph: Any, groups: Any) -> Any:
    from graphprune.ir.plan import Plan
    from graphprune.rewriting.apply import apply

    return apply(graph, Plan(halves(groups)))


def check_faces(stages: Stages, cut: Any, out: Path) -> None:
    """The checkpoint reloaded and the ONNX model, each compared with the graph."""
    from graphprune.artefacts import check_process, parity
    from graphprune.backends.huggingface.backend import HuggingFace
    from graphprune.backends.onnx.backend import Onnx
    from graphprune.running import comparison

    def compare(checks: Callable[..., Any], place: Path) -> None:
        expected, kind = check_process.read_reference(out)
        with torch.no_grad():
            comparison.require(list(checks(place, expected, kind)))

    with stages.stage("reference"):
        parity.save_reference(cut, out)
    with stages.stage("checkpoint"):
        HuggingFace().export(cut, out)
        compare(check_process.check_checkpoint, out)
        stages.found["stock"] = not (out / "modeling_graphprune.py").exists()
    with stages.stage("onnx"):
        Onnx().export(cut, out)
        compare(check_process.check_runnable, out / "onnx")


def main() -> None:
    from conformance_suites import has_torchvision

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    has_torchvision()  # some models of transformers need it, or timm, which does
    print(json.dumps(examine(*sys.argv[1:3])), flush=True)


if __name__ == "__main__":
    main()
