"""Forms with sizes for each layer, opened by the runtimes that they are for, where these are installed.

`make test-runtimes` installs mlx-lm and vLLM for a processor, in an environment of their own.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from graphprune import Graph, Plan, analyze, apply
from graphprune.artefacts import parity
from graphprune.artefacts.checks import mlx_check
from graphprune.backends.layered.decilm import DeciLm
from graphprune.backends.layered.openelm import OpenElm
from graphprune.errors import ParityError
from graphprune.running.observations import reference
from tests.backends.test_layered import IDS, cut, logits, make

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "vllm_tokens.py"
VLLM = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1"}
needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


def ask_vllm(folder: Path, ids: list[int], count: int) -> tuple[list[int], torch.Tensor]:
    """Greedy tokens after some, and how likely each of these was, in a process of its own."""
    command = [sys.executable, str(SCRIPT), str(folder), json.dumps(ids), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **VLLM}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"tokens"')))
    return answer["tokens"], torch.tensor(answer["likely"])


@needs_vllm
@pytest.mark.parametrize("kind", ["Llama", "Qwen2"])
def test_vllm_makes_the_same_tokens(kind: str, tmp_path: Path) -> None:
    """Layers with other numbers of channels, one without attention and one without MLP, a narrower residual stream."""
    source = make(tmp_path / "source", kind, head_dim=32)  # a size that its kernels for a processor have
    small = cut(source, heads=False, drop=(2, 5))
    DeciLm().export(small, tmp_path)
    expected, ids = reference(small), IDS[0].tolist()
    tokens, likely = ask_vllm(tmp_path / "decilm", expected["input.prompt"][0].tolist(), 32)
    assert tokens == expected["greedy.tokens"][:32].tolist()
    _, likely = ask_vllm(tmp_path / "decilm", ids, 1)
    wanted = torch.log_softmax(logits(small), -1)[torch.arange(len(ids) - 1), IDS[0, 1:]]
    torch.testing.assert_close(likely, wanted, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return make(tmp_path_factory.mktemp("llama"))


def opened_by_mlx(graph: Graph, folder: Path) -> None:
    """What is written is what the graph computes, by the check that `compile` makes."""
    pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")
    OpenElm().export(graph, folder)
    parity.save_reference(graph, folder)
    assert mlx_check.can_check(folder / "openelm")
    checks = {check.name: check for check in parity.check(folder)}
    assert all(check.passed for check in checks.values()), checks
    assert checks["greedy tokens"].detail == "64 of 64 tokens equal"


@pytest.mark.parametrize("drop", [(), (2, 5), (2, 3)])
def test_mlx_computes_the_same(dense: Graph, drop: tuple[int, ...], tmp_path: Path) -> None:
    opened_by_mlx(cut(dense, drop=drop), tmp_path)


def test_mlx_computes_the_same_with_norms_of_heads(tmp_path: Path) -> None:
    opened_by_mlx(cut(make(tmp_path / "source", "Qwen3", tie_word_embeddings=True), drop=(2,)), tmp_path / "out")


def test_mlx_finds_a_wrong_weight(dense: Graph, tmp_path: Path) -> None:
    pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")
    name = "model.layers.1.self_attn.q_proj.weight"
    wrong = dense.with_tensors({name: torch.nn.Parameter(dense.parameters()[name].roll(1, 0))})
    OpenElm().export(wrong, tmp_path)
    checks = {check.name: check for check in mlx_check.check_mlx(tmp_path / "openelm", reference(dense))}
    assert not checks["prefill"].passed
    with pytest.raises(ParityError, match="mlx-lm does not load"):
        mlx_check.open_model(tmp_path)


def test_mlx_reads_decilm_in_steps_of_256(tmp_path: Path) -> None:
    """As its nemotron-nas, where the residual width is heads times head size."""
    pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")
    source = make(tmp_path / "source")
    widths = [group for group in analyze(source).prunable() if group.kind == "mlp"]
    small = apply(source, Plan({group.id: tuple(range(256)) for group in widths[::2]}))
    DeciLm(multiple=256).export(small, tmp_path)
    model, cache = mlx_check.open_model(tmp_path / "decilm")
    found = mlx_check.feed(model, cache, IDS[0].tolist())
    torch.testing.assert_close(found, logits(small), rtol=1e-4, atol=1e-4)


def test_code_that_a_configuration_names_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "openelm", "model_file": "model.py"}')
    (tmp_path / "model.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ParityError, match="names a model_file, which is code"):
        mlx_check.open_model(tmp_path)


def test_only_its_own_form_is_opened(tmp_path: Path) -> None:
    assert mlx_check.model_type(tmp_path) is None
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert mlx_check.model_type(tmp_path) == "llama"
    assert not mlx_check.can_check(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert mlx_check.model_type(tmp_path) is None
