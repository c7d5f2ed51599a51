"""Targets beyond parameters: files, cache and speed, as polynomials that the budget solver meets."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graphprune import Graph, Plan, analyze, apply
from graphprune.amounts import parse_bytes, parse_speed
from graphprune.artefacts.export import load_backends
from graphprune.artefacts.staging import folder_size
from graphprune.budget.installed import load_backend
from graphprune.budget.quantities import CacheBytes, FileBytes, Latency, Parameters, parse_quantity
from graphprune.budget.targets import Target, cost_of_graph, file_quantities, resolve_target
from graphprune.compiler.compile import compile_model
from graphprune.compiler.goal import find_aim
from graphprune.errors import BudgetError, UsageError
from graphprune.evaluation import kernel_rounding, latency
from graphprune.evaluation.kernel_rounding import Timing, measure_rounding, read_table
from graphprune.evaluation.latency import Point, fit_latency, fit_shares
from graphprune.evaluation.measures import check_file
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.resolution import resolve_recipe
from graphprune.progress import no_progress
from graphprune.spec import print_spec
from tests.support.families import graph as family
from tests.support.tiny_source import write_source

ALL = "huggingface,onnx,ort{folder=a},ort{precision=fp16},ort{precision=int8},ort{precision=int4},gguf"
BACKENDS = (*ALL.split(","), "ort{precision=int4,block=16,symmetric=true,embeddings=true,folder=packed}")
pytestmark = pytest.mark.xdist_group("targets")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"))


def target_of(asked: CompileOptions, graph: Graph, backends: Sequence[Any]) -> Target:
    return resolve_target(*asked.target, graph, file_quantities(graph, backends))


def options(source: Path, **changes: Any) -> CompileOptions:
    data = str(source / "text.txt")
    plain = CompileOptions(str(source), "75%", Path("unused"), data=data, samples=8, length=24)
    target = "75%" if not any(name.startswith("target") for name in changes) else None
    return replace(plain, **{"target_params": target, **changes})


def shrink(graph: Graph, share: float) -> Graph:
    groups = [g for g in analyze(graph).prunable() if g.kind in ("mlp", "attention", "residual")]
    return apply(graph, Plan({g.id: tuple(range(max(1, int(share * g.units)))) for g in groups}))


@pytest.mark.parametrize(("name", "share"), [("llama", 1.0), ("llama", 0.5), ("gpt2", 0.5), ("mixtral", 1.0)])
def test_a_file_has_what_the_polynomial_says(name: str, share: float, tmp_path: Path) -> None:
    """The cost of the dense model's groups at the cut widths is what the cut model's files have."""
    dense = family(name)
    small = shrink(dense, share)
    chosen = [spec for spec in BACKENDS if spec != "gguf" and not (name == "mixtral" and "int8" in spec)]
    for backend in load_backends(chosen):
        quantity = backend.quantity(dense)
        groups, kept = analyze(dense), small.lineage.plan.widths()
        said = quantity.cost(groups)(groups.sizes() | kept)
        assert said == cost_of_graph(quantity, small), backend
        backend.export(small, tmp_path)
        pattern = "*.safetensors" if backend.name == "huggingface" else "model.onnx*"
        size = folder_size(tmp_path / getattr(backend, "place", ""), pattern)
        overhead = groups.costs.storage.operators * 450
        assert size - overhead <= said / quantity.unit <= size * 1.6 + overhead, backend


def test_large_files_are_exact(tmp_path: Path) -> None:
    """Without the operators, which are little in a real model, full precision is exact to alignment."""
    graph = family("llama")
    for backend in load_backends(("onnx", "ort")):
        backend.export(graph, tmp_path)
        data = folder_size(tmp_path / backend.place, "model.onnx.data")
        weights = replace(FileBytes(), buffers=False)
        said = cost_of_graph(weights, graph) // weights.unit - 450 * analyze(graph).costs.storage.operators
        assert math.isclose(data, said, rel_tol=0.1)


@pytest.mark.parametrize(
    "quantity",
    [Parameters(), CacheBytes(), FileBytes("int4", 16, True, True, place="onnx-int4"), Latency(10**14, 7, 3)],
)
def test_quantities_print_and_parse(quantity: Any) -> None:
    assert parse_quantity(print_spec(quantity)) == quantity
    assert quantity.show(cost_of_graph(quantity, family("llama")))


def test_unknown_quantities_are_refused() -> None:
    with pytest.raises(UsageError, match="latency"):
        parse_quantity("watts")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500MB", 5e8),
        ("1.5GiB", 1.5 * 2**30),
        ("32KiB", 32768),
        ("1TB", 1e12),
        ("4096", 4096),
        ("50%", 600),
        ("2m", 2e6),
    ],
)
def test_bytes_are_read(text: str, value: float) -> None:
    assert parse_bytes(text, 1200, 1) == value


@pytest.mark.parametrize("text", ["", "-3MB", "0", "12 apples", "1XB"])
def test_bad_bytes_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="500MB"):
        parse_bytes(text, 1200, 1)


@pytest.mark.parametrize("text", ["1x", "fast", "0.5", "-2x", "nan", "1e9"])
def test_bad_speeds_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="2x"):
        parse_speed(text)


def test_one_target_is_asked_for() -> None:
    with pytest.raises(UsageError, match="--target-speed"):
        CompileOptions("demo", out=Path("out"))
    with pytest.raises(UsageError, match="not --target-params and --target-size"):
        CompileOptions("demo", "60%", Path("out"), target_size="1MB")


def test_the_largest_file_is_meant_or_a_named_one(source: Path) -> None:
    graph, backends = family("llama"), load_backends(BACKENDS)
    files = file_quantities(graph, backends)
    assert set(files) == {"checkpoint", "onnx", "a", "onnx-fp16", "onnx-int8", "onnx-int4", "gguf", "packed"}
    whole = target_of(options(source, target_size="60%"), graph, backends).quantity
    assert isinstance(whole, FileBytes)
    assert whole.precision == "fp32"
    named = target_of(options(source, target_size="packed:60%"), graph, backends).quantity
    assert named == files["packed"]
    with pytest.raises(UsageError, match="onnx-int4"):
        target_of(options(source, target_size="int4:60%"), graph, backends)
    with pytest.raises(BudgetError, match="above what the model has"):
        target_of(options(source, target_size="60GB"), graph, backends)
    with pytest.raises(UsageError, match="--backends"):
        target_of(options(source, target_size="60%"), graph, ())


def test_models_without_a_cache_have_no_cache_target(source: Path) -> None:
    with pytest.raises(BudgetError, match="keeps no cache"):
        target_of(options(source, target_kv_bytes="50%"), family("bert"), ())


def test_files_fit(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = options(source, out=out, target_size="110KB", backends=("huggingface", "onnx", "ort{precision=int4}"))
    result = compile_model(asked)
    sizes = {folder.parent.name: folder_size(folder.parent, "model.onnx*") for folder in out.glob("*/model.onnx")}
    assert set(sizes) == {"onnx", "onnx-int4"}
    assert 80_000 < max(sizes.values()) <= 110_000
    assert result.report["target"] == {"kind": "size", "value": "110KB", "measured": {}}
    assert "--target-size 110KB" in (out / "graphprune" / "recipe.yaml").read_text()


def test_the_cache_is_halved_and_nothing_else_is_cut(source: Path, tmp_path: Path) -> None:
    result = compile_model(options(source, target_kv_bytes="50%", backends=("huggingface",), out=tmp_path / "out"))
    assert {width.kind for width in result.widths if width.after < width.before} == {"attention"}
    cache = next(m for m in result.measures if "cache" in m.name)
    assert cache.before is not None
    assert cache.after == cache.before / 2


def test_what_does_not_count_is_not_enough(source: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="of cache a token is out of reach"):
        compile_model(options(source, target_kv_bytes="50%", prune=("mlp",)))


def test_shares_of_the_time_are_found() -> None:
    points = [Point("", m, c, 0.2 + 0.7 * m + 0.1 * c) for m, c in ((0.5, 0.5), (0.7, 1.0), (0.9, 0.5), (0.2, 0.5))]
    assert fit_shares(points) == pytest.approx((0.2, 0.7, 0.1))
    noisy = [Point("", m, 1.0, m + 0.3) for m in (0.2, 0.5)]  # slower than the source: no share is negative
    assert min(fit_shares(noisy)) >= 0
    assert sum(fit_shares(noisy)) == pytest.approx(1)


def test_a_speed_is_met_by_what_was_measured(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With times that follow multiplications alone, twice the speed is half of the multiplications."""

    def measured(graph: Graph, backend: Any, progress: Any) -> tuple[Latency, tuple[Point, ...]]:
        points = (Point("half", 0.5, 1.0, 0.5), Point("less", 0.25, 0.5, 0.25), Point("least", 0.1, 0.5, 0.1))
        return fit_latency(graph, points), points

    monkeypatch.setattr("graphprune.compiler.goal.measure_latency", measured)
    result = compile_model(options(source, target_speed="2x", backends=("ort",), out=tmp_path / "out"))
    macs = next(m for m in result.measures if m.name.startswith("multiplications"))
    assert macs.before is not None
    assert macs.after is not None
    assert 0.45 <= macs.after / macs.before <= 0.5
    assert result.report["target"]["measured"]["speed"]["points"][0]["time"] == 0.5


def test_speed_is_measured_in_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "SETTING", replace(latency.SETTING, context=4, tokens=4, runs=1))
    monkeypatch.setattr(latency, "_SHAPES", latency._SHAPES[:2])
    found, points = latency.measure_latency(family("llama"), load_backends(("ort",))[0], no_progress)
    assert [point.shape for point in points] == ["50% of mlp, attention, residual", "50% of mlp"]
    assert all(point.time > 0 and point.multiplications < 1 for point in points)
    assert cost_of_graph(found, family("llama")) == pytest.approx(found.unit, rel=1e-6)


def test_what_was_measured_is_kept_for_a_run_that_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: Any) -> tuple[int, tuple[Timing, ...]]:
        return 4, (Timing(1, 33, (0.1,), 1.3), Timing(4, 36, (0.1,), 1.0))

    monkeypatch.setattr("graphprune.compiler.goal.measure_rounding", measured)
    asked = options(source, round_to="auto")
    recipe, backends = resolve_recipe(asked), load_backends(("ort",))
    first = find_aim(asked, recipe, family("llama"), backends, tmp_path)
    assert first.recipe.prune.round_to == 4
    assert json.loads((tmp_path / "measured.json").read_text())["rounding"]["table"][0]["ratio"] == 1.3
    monkeypatch.setattr("graphprune.compiler.goal.measure_rounding", None)
    again = find_aim(asked, recipe, family("llama"), backends, tmp_path)
    assert (again.recipe, again.target) == (first.recipe, first.target)
    with pytest.raises(UsageError, match="--backends"):
        find_aim(asked, recipe, family("llama"), (), None)


def test_the_smallest_step_that_is_fast_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {128 + step: (1.0, 2.0 if step < 16 else 1.0) for step in (0, *kernel_rounding.STEPS, 128)}
    seconds[128], seconds[256] = (1.0, 1.0), (1.0, 1.0)
    table = read_table(128, seconds)
    assert [timing.ratio for timing in table] == [2, 2, 2, 2, 1, 1, 1]
    monkeypatch.setattr(kernel_rounding, "time_models", lambda models: seconds)
    assert measure_rounding(family("llama"), load_backend("onnx"), no_progress)[0] == 16


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_layers_are_timed(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_rounding, "_RUNS", 2)
    step, table = measure_rounding(family("llama"), load_backend(f"ort{{precision={precision}}}"), no_progress)
    assert step in (*kernel_rounding.STEPS, 128)
    assert all(min(timing.seconds) > 0 for timing in table)


def test_a_dry_run_takes_bytes_and_measures_nothing(source: Path) -> None:
    asked = replace(options(source, target_size="onnx-int4:80%", backends=("ort{precision=int4}",)), dry_run=True)
    result = compile_model(replace(asked, out=None))
    assert result.widths
    cache = next(measure for measure in result.measures if "cache" in measure.name)
    assert cache.before == 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, size, float32 though the source is bf16
    for changes in ({"target_size": None, "target_speed": "2x"}, {"round_to": "auto"}):
        with pytest.raises(UsageError, match="measures nothing"):
            compile_model(replace(asked, **changes))


@pytest.mark.parametrize("name", ["gguf/model-f16.gguf", "onnx/model.onnx.data", "model.safetensors"])
def test_a_file_above_its_target_is_said_to_be(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(100))
    quantity = FileBytes(place=path.parent.name if "/" in name else "checkpoint")
    backends = load_backends(("huggingface", "onnx", "gguf"))
    assert check_file(Target(quantity, 100 * quantity.unit, 0), backends, tmp_path) == ()
    assert "100 bytes, above the 99 bytes" in check_file(Target(quantity, 99 * quantity.unit, 0), backends, tmp_path)[0]
