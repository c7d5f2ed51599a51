"""How models go on from the held-out text: the same prompt for both, and nothing where there is none."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from graphprune.backends.onnx.backend import Onnx
from graphprune.budget.installed import open_model
from graphprune.data.calibration import Text
from graphprune.data.stream.lead import Lead
from graphprune.evaluation import samples
from graphprune.evaluation.samples import lengths, prompt_for, prompt_of, read_tokens, two_samples
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.running.inputs import decoder_inputs
from tests.support.tiny_language import save_model, tokenizer

pytestmark = pytest.mark.xdist_group("tiny_language")
HELD_OUT = torch.randint(3, 42, (20,), generator=torch.Generator().manual_seed(1))
TEXT = Text((), HELD_OUT, 100, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="module")
def graph(folder: Path) -> Graph:
    found = capture(folder)
    Onnx().export(found, folder)
    return found


def go_on(graph: Graph, text: Sequence[int], count: int) -> list[int]:
    """Greedy tokens, every step a fresh run over the whole text."""
    made = list(text)
    for _ in range(count):
        with torch.no_grad():
            made.append(int(graph(*decoder_inputs(graph, torch.tensor([made])))[0][0, -1].argmax()))
    return made


def test_a_prompt_is_the_start_of_the_held_out_text(graph: Graph) -> None:
    unstated = replace(graph, source=replace(graph.source, config=None))
    assert prompt_of(TEXT, unstated) == [1, *HELD_OUT[:15].tolist()]
    assert prompt_of(replace(TEXT, bos=None), unstated) == HELD_OUT[:16].tolist()


def test_a_prompt_leaves_room_in_a_short_context(graph: Graph) -> None:
    short = replace(graph, source=replace(graph.source, config=SimpleNamespace(max_position_embeddings=8)))
    assert lengths(short, TEXT) == (2, 6)
    assert prompt_of(TEXT, short) == [1, int(HELD_OUT[0])]
    led = replace(TEXT, lead=Lead((90, 91), 1))
    assert lengths(short, led) == (1, 5)
    assert prompt_of(led, short) == [1, 90, 91]


def test_both_samples_are_the_prompt_and_what_is_likeliest_after_it(
    folder: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "_SAMPLE_TOKENS", 8)
    wanted = tokenizer().decode(go_on(graph, prompt_of(TEXT, graph), 8), skip_special_tokens=True)
    assert wanted.startswith(tokenizer().decode(HELD_OUT[:15].tolist()))
    prompt, count = prompt_for(TEXT, graph)
    assert read_tokens(TEXT, graph, open_model(folder, "cpu").generate([prompt], max_new_tokens=count)[0]) == wanted
    assert two_samples(TEXT, graph, "after that") == (("before", wanted), ("after", "after that"))


def test_without_a_prompt_a_tokenizer_or_a_sample_there_is_none(graph: Graph) -> None:
    bare = replace(graph, source=replace(graph.source, folder=None))
    for text, source in ((None, graph), (replace(TEXT, held_out=HELD_OUT[:15]), graph), (TEXT, bare)):
        assert prompt_for(text, source) == ([], 0)
    assert two_samples(TEXT, graph, "") == two_samples(None, graph, "x") == ()


def test_a_large_source_is_not_run(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "LARGEST_MEASURED", graph.parameter_count() - 1)
    assert two_samples(TEXT, graph, "after") == ()
