"""The inputs of encoders: from the signature and the configuration, and images only where they are needed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from graphprune import Plan, analyze, capture
from graphprune.artefacts import check_process, loading, parity
from graphprune.backends.huggingface.backend import HuggingFace
from graphprune.models.encoder import encoder_contract, image_shape
from graphprune.rewriting.apply import apply
from graphprune.running import comparison
from graphprune.running.inputs import decoder_inputs
from tests.support import oracle

SMALL = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 44}


class Nested(SimpleNamespace):
    """A configuration within another."""

    def to_dict(self) -> dict[str, Any]:
        return vars(self)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (SimpleNamespace(image_size=32, num_channels=1), [1, 32, 32]),
        (SimpleNamespace(image_size=(32, 48)), [3, 32, 48]),
        (SimpleNamespace(image_size={"height": 16, "width": 8}, in_channels=(8, 16)), [3, 16, 8]),
        (SimpleNamespace(backbone_config=Nested(image_size=64, num_channels=4)), [4, 64, 64]),
        (SimpleNamespace(), [3, 224, 224]),
    ],
)
def test_the_shape_of_images_comes_from_the_configuration(config: Any, shape: list[int]) -> None:
    assert image_shape(config) == shape


def test_boxes_and_segments_go_along_with_the_text() -> None:
    model = transformers.LayoutLMForMaskedLM(transformers.LayoutLMConfig(**SMALL, max_2d_position_embeddings=32))
    _, contract = encoder_contract(model.eval())
    assert list(contract.inputs) == ["input_ids", "attention_mask", "token_type_ids", "bbox"]
    assert contract.inputs["bbox"].shape[-1] == 4
    assert contract.outputs == ("logits",)


def test_a_model_that_remembers_what_it_ran_on_is_not_changed() -> None:
    class Remembers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = transformers.ViTConfig(image_size=8)
            self.scale, self.seen = torch.nn.Linear(8, 2), SimpleNamespace(calls=0)
            self.kept: dict[str, torch.Tensor] = {}

        def can_generate(self) -> bool:
            return False

        def forward(self, pixel_values: torch.Tensor, return_dict: bool = True) -> dict[str, torch.Tensor]:
            self.seen.calls += 1
            if "twice" not in self.kept:
                self.kept["twice"] = 2 * self.scale.weight
            logits = (
                self.scale(pixel_values.mean((1, 2)))
                + (self.kept["twice"] @ pixel_values.mean((1, 2))[..., None])[..., 0]
            )
            return {"logits": logits}

    model = Remembers()
    graph = capture(model.eval())
    assert model.seen.calls == 0
    assert not model.kept
    assert graph.outputs == ("logits",)
    assert graph.parameters()["scale.weight"] is model.scale.weight


def swin() -> Any:
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=16, depths=(2, 1), num_heads=(2, 4), window_size=4, num_labels=3
    )
    return transformers.SwinForImageClassification(config)


def convnext() -> Any:
    config = transformers.ConvNextConfig(
        image_size=32, hidden_sizes=(8, 12), depths=(1, 1), num_stages=2, layer_scale_init_value=1.0, num_labels=3
    )
    return transformers.ConvNextForImageClassification(config)


@pytest.mark.parametrize("make", [swin, convnext])
def test_vision_models_cut_in_half_equal_the_masked_ones(make: Any) -> None:
    """Windows that are taken apart, shifted and put together again; convolutions with layer norms between."""
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    graph = capture(model)
    image = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(graph(image)[0], model(image).logits, rtol=1e-4, atol=1e-5)
    wide, found, masked = oracle.analyses(graph)
    keep = {g.id: tuple(range(g.units // 2)) for g in found.groups.prunable() if g.units > 1}
    assert {found.groups.by_id()[id].kind for id in keep} >= {"mlp"}
    oracle.check_cut(wide, found, masked, Plan(keep, statistics="exact"), 1e-9)


def test_several_rows_of_ids_for_one_example() -> None:
    torch.manual_seed(0)
    config = transformers.MusicgenDecoderConfig(
        vocab_size=64,
        hidden_size=16,
        ffn_dim=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_codebooks=3,
        max_position_embeddings=32,
    )
    model = transformers.MusicgenForCausalLM(config).eval()
    graph = capture(model)
    for rows, length in ((1, 4), (3, 9)):
        ids, mask = torch.randint(64, (3 * rows, length)), torch.ones(rows, length, dtype=torch.long)
        with torch.no_grad():
            found = graph(*decoder_inputs(graph, ids))[0]
            torch.testing.assert_close(found, model(ids, mask, use_cache=False).logits)


def test_an_encoder_in_the_generic_form_loads_and_computes_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    graph = capture(transformers.BertForMaskedLM(config).eval())
    channels = [group for group in analyze(graph).prunable() if group.kind == "mlp"]
    cut = apply(graph, Plan({channels[0].id: tuple(range(20))}))
    parity.save_reference(cut, tmp_path)
    HuggingFace().export(cut, tmp_path)
    expected, kind = check_process.read_reference(tmp_path)
    assert loading.is_generic_form(tmp_path)
    comparison.require(list(check_process.check_checkpoint(tmp_path, expected, kind)))
