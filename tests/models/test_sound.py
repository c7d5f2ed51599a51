"""Sound: the forms of waveforms and spectra are found by what a configuration says and what a model runs on."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from graphprune.errors import CaptureError
from graphprune.frontend.source import capture
from graphprune.models.encoder import sounds_of
from graphprune.models.sound import FRAMES, SAMPLES, example_sounds


def shapes(**fields: Any) -> list[tuple[int, ...]]:
    config: Any = SimpleNamespace(**fields)
    return [tuple(sound.tensor.shape) for sound in example_sounds(config, 2, torch.device("cpu"))]


def test_spectra_come_before_waveforms() -> None:
    waves = [(2, SAMPLES), (2, 10 * SAMPLES)]
    assert shapes() == waves
    assert shapes(num_mel_bins=8, max_source_positions=50) == [(2, 8, 100), (2, FRAMES, 8), *waves]
    assert shapes(num_mel_bins=8, max_length=32) == [(2, 32, 8), (2, FRAMES, 8), *waves]
    assert shapes(num_mel_bins=8, spec_size=16) == [(2, 1, 16, 8), (2, FRAMES, 8), *waves]
    assert shapes(input_feat_per_channel=40, input_channels=2) == [(2, FRAMES, 80), *waves]
    assert shapes(num_mel_bins=None, max_length=0) == waves


def test_frames_of_any_number_are_captured() -> None:
    torch.manual_seed(0)
    config = transformers.Wav2Vec2BertConfig(
        vocab_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=44,
        feature_projection_input_dim=20, output_hidden_size=32, classifier_proj_size=12, conv_depthwise_kernel_size=5,
    )  # fmt: skip
    model = transformers.Wav2Vec2BertForSequenceClassification(config).eval()
    graph = capture(model)
    assert graph.inputs == ("input_features",)
    sounds = torch.randn(1, 50, 20)
    with torch.no_grad():
        torch.testing.assert_close(graph(sounds)[0], model(sounds).logits, rtol=1e-4, atol=1e-5)


def test_a_form_that_is_not_known_is_one_line() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config, self.scale = transformers.WhisperConfig(num_mel_bins=8), torch.nn.Linear(2, 2)

        def forward(self, input_values: torch.Tensor, return_dict: bool = True) -> None:
            raise ValueError("pairs of ears")

    model: Any = Odd()
    with pytest.raises(CaptureError, match="Odd takes sounds as input_values in a form that is not known here"):
        sounds_of(model, "input_values", {})


def test_waveforms_that_do_not_trace_are_one_line() -> None:
    config = transformers.Wav2Vec2Config(
        vocab_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=44,
        conv_dim=(16, 16), conv_kernel=(10, 3), conv_stride=(5, 2), num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4, num_feat_extract_layers=2,
    )  # fmt: skip
    model = transformers.Wav2Vec2ForSequenceClassification(config).eval()
    with pytest.raises(CaptureError, match="computes with sizes as numbers, and holds for some samples alone"):
        capture(model)
