"""Devices without a GPU: what is chosen, what is refused and why, what is said of one that is not used."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from graphprune import drivers
from graphprune.backends.runtime.providers import require_provider
from graphprune.compiler.request import device_notes, with_precision
from graphprune.errors import GraphpruneError, MemoryShortError, UsageError
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.passes import Context, Pass, run_passes
from graphprune.pipeline.recipes import read_recipe
from graphprune.running import devices
from graphprune.running.devices import choose_device, device_peak, is_shortage, memory_errors, unused_gpu
from tests.support.tiny_llama import tiny_graph

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "has_gpu", lambda: False)


@pytest.fixture
def unseen_gpu(no_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that the driver shows and torch can not use."""
    monkeypatch.setattr(devices, "has_gpu", lambda: True)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs, as torch tells of them."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA Test")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_it_is_the_processor() -> None:
    assert choose_device(None) == choose_device("auto") == choose_device("cpu") == CPU
    assert unused_gpu(CPU) is None
    with pytest.raises(UsageError, match="there is no device cuda: torch finds no GPU on this machine; leave"):
        choose_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "cuda:-1", "0"])
def test_what_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"is no device; write auto, cpu, cuda or cuda:1|there is no device"):
        choose_device(name)


@pytest.mark.usefixtures("unseen_gpu")
def test_a_gpu_that_torch_can_not_use_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "was built without CUDA; install a CUDA build" in str(unused_gpu(CPU))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(
        UsageError, match=r"no device cuda:0: torch \S+ needs a driver for CUDA 13.0; update the driver"
    ):
        choose_device("cuda:0")


@pytest.mark.usefixtures("two_gpus")
def test_gpus_have_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("auto") == choose_device("cuda") == CUDA
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UsageError, match=r"no device cuda:2; this machine has cuda:0, cuda:1, and the CPU as cpu"):
        choose_device("cuda:2")
    assert unused_gpu(CUDA) is None
    assert unused_gpu(CPU) == "a GPU is here and not used: NVIDIA Test; --device auto takes it"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("auto") == torch.device("cuda", 1)  # of two processes each has its own


def test_a_gpu_is_hidden_on_purpose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "_NVIDIA", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert not drivers.has_gpu()
    (tmp_path / "0000:01:00.0").mkdir()
    assert drivers.has_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not drivers.has_gpu()


def options(precision: Any = "auto", **changes: Any) -> CompileOptions:
    return CompileOptions("demo", "60%", Path("out"), precision=precision, **changes)


def precision_of(device: torch.device, asked: str, *, said: str | None = None) -> Any:
    recipe = read_recipe("adapt-accel")
    assert recipe.recover is not None
    if said is not None:
        recipe = recipe.model_copy(update={"recover": {**recipe.recover, "precision": said}})
    made = with_precision(recipe, options(asked), device).recover
    assert made is not None
    return made.get("precision", "none")


@pytest.mark.usefixtures("two_gpus")
def test_training_is_in_bf16_where_a_gpu_has_it() -> None:
    assert [precision_of(device, "auto") for device in (CPU, CUDA)] == ["none", "bf16"]
    assert [precision_of(device, "float32") for device in (CPU, CUDA)] == ["none", "none"]
    assert [precision_of(device, "bf16") for device in (CPU, CUDA)] == ["bf16", "bf16"]
    assert precision_of(CUDA, "auto", said="none") == "none"  # what a recipe says is not overruled by a guess
    assert precision_of(CUDA, "bf16", said="none") == "bf16"


def test_precision_is_told_to_be_of_training() -> None:
    taylor = read_recipe("taylor")
    assert with_precision(taylor, options("bf16"), CPU) is taylor
    assert "taylor does not train" in device_notes(taylor, options("bf16"), CPU)[-1]
    with pytest.raises(UsageError, match="--precision does not know 'fp8'"):
        options("fp8")


SHORTAGES = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"),
    RuntimeError("CUDA error: out of memory"),
]


@pytest.mark.parametrize("error", SHORTAGES, ids=repr)
def test_want_of_memory_is_one_line(error: Exception) -> None:
    assert is_shortage(error)
    with pytest.raises(MemoryShortError, match=r"^out of memory: lower the batch$"), memory_errors("lower the batch"):
        raise error


def test_other_errors_are_themselves() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), memory_errors("lower the batch"):
        raise RuntimeError("shapes differ")


def test_a_pass_that_needs_too_much_says_what_to_lower() -> None:
    class Large(Pass):
        def run(self, graph: Any, context: Context) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    Large.name = "large"
    with pytest.raises(
        GraphpruneError, match=r"large.* failed: out of memory; .*--samples and --length, .*--device cpu"
    ):
        run_passes(tiny_graph(), [Large()])


def test_cuda_that_does_not_start_is_no_success() -> None:
    session = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    require_provider("auto", session)
    with pytest.raises(GraphpruneError, match=r"could not start its CUDA provider.*--provider cpu"):
        require_provider("cuda", session)


def test_a_runtime_without_cuda_beside_a_gpu_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from graphprune.cli import running

    monkeypatch.setattr(running, "has_gpu", lambda: True)
    for used, asked in (("CUDAExecutionProvider", "auto"), ("CPUExecutionProvider", "cpu")):
        running.note_unused_gpu(used, asked)
    assert capsys.readouterr().err == ""
    running.note_unused_gpu("CPUExecutionProvider", "auto")
    assert "a GPU is here and not used: pip install 'onnxruntime-gpu[cuda,cudnn]'" in capsys.readouterr().err


def test_the_peak_of_a_device_is_known_of_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7 if device == CUDA else 0)
    assert device_peak(CPU) is None
    assert device_peak(CUDA) == 7
