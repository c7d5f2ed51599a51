"""What further ONNX models cost: their bytes, and perplexities that are those of what they compute."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graphprune.backends.onnx.backend import Onnx
from graphprune.data.calibration import Text
from graphprune.evaluation import variants
from graphprune.evaluation.measure import Measure
from graphprune.evaluation.variants import variant_measures
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.progress import no_progress
from graphprune.running.inputs import decoder_inputs
from tests.support.tiny_language import save_model

pytestmark = pytest.mark.xdist_group("tiny_language")
HELD_OUT = torch.randint(3, 42, (30,), generator=torch.Generator().manual_seed(1))
TEXT = Text((), HELD_OUT, 100, None)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Graph, Graph]:
    """An artefact with two ONNX models, which compute different things, and a GGUF file of seven bytes."""
    out = save_model(tmp_path_factory.mktemp("variants"))
    one = capture(out)
    other = one.with_tensors(
        {n: torch.nn.Parameter(1.5 * p.detach()) for n, p in one.parameters().items() if "mlp" in n}
    )
    Onnx().export(other, out)
    (out / "onnx").rename(out / "onnx-int4")
    Onnx().export(one, out)
    (out / "gguf").mkdir()
    (out / "gguf" / "model-f16.gguf").write_bytes(b"1234567")
    return out, one, other


def perplexity(graph: Graph, ids: torch.Tensor) -> float:
    with torch.no_grad():
        logits = graph(*decoder_inputs(graph, ids[None]))[0]
    return float(torch.nn.functional.cross_entropy(logits[0, :-1], ids[1:]).exp())


def named(measures: Sequence[Measure]) -> dict[str, float | None]:
    assert all(measure.before is None for measure in measures), "the source has no such files"
    return {measure.name: measure.after for measure in measures}


def measured(out: Path, text: Text | None = TEXT, parameters: int = 1) -> dict[str, float | None]:
    return named(variant_measures(out, text, parameters, no_progress))


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.name.startswith("model.onnx"))


def test_every_model_has_its_bytes_and_the_perplexity_of_what_it_computes(graphs: tuple[Path, Graph, Graph]) -> None:
    out, one, other = graphs
    found = measured(out)
    assert list(found) == [
        "onnx-int4 model",
        "model-f16",
        "held-out perplexity, onnx",
        "held-out perplexity, onnx-int4",
    ]
    assert (found["onnx-int4 model"], found["model-f16"]) == (bytes_of(out / "onnx-int4"), 7)
    assert found["held-out perplexity, onnx"] == pytest.approx(perplexity(one, HELD_OUT), rel=1e-4)
    assert found["held-out perplexity, onnx-int4"] == pytest.approx(perplexity(other, HELD_OUT), rel=1e-4)
    assert abs(perplexity(one, HELD_OUT) - perplexity(other, HELD_OUT)) > 0.01 * perplexity(one, HELD_OUT)


def test_bytes_alone_where_there_is_no_text_or_the_model_is_large(graphs: tuple[Path, Graph, Graph]) -> None:
    sizes = ["onnx-int4 model", "model-f16"]
    assert list(measured(graphs[0], None)) == sizes
    assert list(measured(graphs[0], replace(TEXT, held_out=HELD_OUT[:1]))) == sizes
    assert list(measured(graphs[0], parameters=variants.LARGEST_MEASURED + 1)) == sizes


def test_one_model_alone_has_nothing_to_be_compared_with(graphs: tuple[Path, Graph, Graph], tmp_path: Path) -> None:
    assert measured(tmp_path) == {}
    shutil.copytree(graphs[0] / "onnx", tmp_path / "onnx")
    assert measured(tmp_path) == {}
    shutil.copytree(graphs[0] / "gguf", tmp_path / "gguf")
    assert measured(tmp_path) == {"model-f16": 7}


def test_every_file_for_the_web_is_measured(graphs: tuple[Path, Graph, Graph], tmp_path: Path) -> None:
    out, one, _ = graphs
    (tmp_path / "web").mkdir()
    shutil.copytree(out / "onnx", tmp_path / "web" / "onnx")
    shutil.copyfile(out / "config.json", tmp_path / "web" / "config.json")
    found = measured(tmp_path)
    assert found["web model"] == bytes_of(out / "onnx")
    assert found["held-out perplexity, web model"] == pytest.approx(perplexity(one, HELD_OUT), rel=1e-4)
