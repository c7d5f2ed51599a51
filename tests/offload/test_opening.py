"""A mixture whose experts are streamed computes what the whole one does, in its budget; what is too little is said."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune.artefacts.loading import load_checkpoint
from graphprune.backends.huggingface.backend import HuggingFace
from graphprune.errors import SourceError, UsageError
from graphprune.frontend.source import capture
from graphprune.models.decoder import cache_arguments
from graphprune.offload.captured import capture_offloaded
from graphprune.offload.experts import experts_in
from graphprune.offload.opening import Offloaded, open_offloaded
from graphprune.offload.skeletons import make_empty
from graphprune.offload.sources import Files, find_sources
from graphprune.offload.stacked import stacked_weights
from graphprune.running.inputs import decoder_inputs
from graphprune.weights.stacks import Stack
from tests.support.tiny_mixture import load_resident, mixture, write_mixture
from tests.support.tiny_source import write_source

IDS = torch.randint(300, (2, 7), generator=torch.Generator().manual_seed(0))


def least(folder: Path) -> int:
    """The least memory, as the refusal says it."""
    with pytest.raises(UsageError, match="bytes are the least") as refused:
        open_offloaded(folder, "1KB")
    found = re.search(r"([\d,]+) bytes are the least", str(refused.value))
    assert found is not None
    assert "\n" not in str(refused.value)
    return int(found[1].replace(",", ""))


def steps(model: Any) -> list[torch.Tensor]:
    """Logits of a prompt, and of a token after it from the cache."""
    with torch.no_grad():
        first = model(IDS, use_cache=True)
        name = cache_arguments()[0]
        return [first.logits, model(IDS[:, :1], **{name: first[name]}).logits]


def require_same(resident: Any, offloaded: Offloaded) -> None:
    for whole, streamed in zip(steps(resident), steps(offloaded.model), strict=True):
        assert torch.equal(whole, streamed)
    assert offloaded.residents.peak <= offloaded.residents.budget


@pytest.mark.parametrize("name", ["mixtral", "qwen3", "deepseek", "gpt-oss"])
def test_logits_are_those_of_the_resident_model(name: str, tmp_path: Path) -> None:
    dtype = torch.bfloat16 if name == "qwen3" else torch.float32
    folder = write_mixture(tmp_path / "source", name, dtype)
    enough, resident = least(folder), load_resident(folder)
    offloaded = open_offloaded(folder, f"{enough}B")
    own = dict(offloaded.model.named_parameters())
    for key, parameter in resident.named_parameters():
        assert own[key].dtype == parameter.dtype
        assert torch.equal(own[key] if not isinstance(own[key], Stack) else whole_of(own[key]), parameter), key
    for kind in ("grouped_mm", "batched_mm", "eager"):
        resident.set_experts_implementation(kind)
        offloaded.model.set_experts_implementation(kind)
        require_same(resident, offloaded)
    offloaded.residents.close()
    assert offloaded.always + offloaded.residents.budget == enough
    assert offloaded.whole == sum(tensor.nbytes for tensor in resident.parameters()) + buffer_bytes(resident)


def whole_of(stack: torch.Tensor) -> torch.Tensor:
    return torch.stack([stack.data[expert] for expert in range(len(stack))])


def buffer_bytes(model: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in model.buffers())


def test_the_generic_form_and_the_graph_are_the_same_too(tmp_path: Path) -> None:
    folder = write_mixture(tmp_path / "source")
    graph = capture(folder)
    HuggingFace(form="generic").export(graph, tmp_path / "generic")
    inputs = decoder_inputs(graph, IDS)
    with torch.no_grad():
        wanted = graph(*inputs)
    for place in (folder, tmp_path / "generic"):
        offloaded = open_offloaded(place, f"{least(place) + 9000}B")
        with torch.no_grad():
            made = capture_offloaded(offloaded)(*inputs)
        assert all(torch.equal(a, b) for a, b in zip(wanted, made, strict=True))
        assert offloaded.residents.peak <= offloaded.residents.budget
        offloaded.residents.close()
    offloaded = open_offloaded(tmp_path / "generic", "50MB")
    require_same(load_checkpoint(tmp_path / "generic", "decoder", torch.float32), offloaded)
    offloaded.residents.close()


def test_tokens_of_one_expert_load_one_expert_of_each_layer(tmp_path: Path) -> None:
    model = mixture()
    for layer in model.model.layers:  # whatever the hidden values, experts 3 and 1 have the largest logits
        layer.mlp.gate.weight.data.zero_()
        layer.mlp.gate.weight.data[3] = 1e-3
    model.config.num_experts_per_tok = 1
    write_source(tmp_path / "source")
    for layer in model.model.layers:
        layer.post_attention_layernorm.weight.data.fill_(1)
    model.save_pretrained(tmp_path / "source")
    log = tmp_path / "loads.jsonl"
    offloaded = open_offloaded(tmp_path / "source", "50MB", log=log)
    with torch.no_grad():
        chosen = [offloaded.model(IDS[:1, :1]).logits for _ in range(3)]
    offloaded.residents.close()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    loads = [(line["stack"], line["expert"]) for line in lines if line["event"] == "load"]
    assert len(loads) == len(set(loads)) == 4, "one expert of two stacks in two layers, read once"
    assert {line["why"] for line in lines if line["event"] == "load"} <= {"needed", "ahead", "guess"}
    assert torch.equal(chosen[0], chosen[2])


def test_a_model_without_experts_is_refused_with_what_it_takes(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "dense")
    with pytest.raises(UsageError, match="and it has no experts"):
        open_offloaded(folder, "1KB")


def test_a_checkpoint_that_lacks_an_expert_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = write_mixture(tmp_path / "source")
    tensors = load_file(folder / "model.safetensors")
    gone = next(name for name in tensors if "experts.5.w1" in name)
    save_file({n: t for n, t in tensors.items() if n != gone}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(SourceError, match=r"experts of model\.layers\.0"):
        open_offloaded(folder, "50MB")


def test_experts_are_found_and_lie_in_the_file(tmp_path: Path) -> None:
    folder = write_mixture(tmp_path / "source")
    model = make_empty(folder, None)
    names = stacked_weights(model)
    parts = ("gate_up_proj", "down_proj")
    assert names == [f"model.layers.{layer}.mlp.experts.{part}" for layer in range(2) for part in parts]
    files = Files((folder / "model.safetensors",))
    sources = find_sources(model, files)
    experts = experts_in(names[0], sources[names[0]], files)
    assert [tuple(part.shape) for part in experts[4].parts] == [(48, 32), (48, 32)]
