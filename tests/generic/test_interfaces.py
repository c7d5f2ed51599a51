"""Interfaces: models of every task keep their Auto class, labels, loss, outputs and pipeline in the generic form."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from graphprune.backends.huggingface.backend import HuggingFace
from graphprune.frontend.source import capture
from graphprune.generic.auto_classes import register
from graphprune.generic.interfaces import Interface, auto_class, interface_of

register()
SMALL: dict[str, Any] = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
SIZES: dict[str, Any] = {**SMALL, "intermediate_size": 44, "max_position_embeddings": 64}
COARSE: dict[str, Any] = {"id2label": {0: "anger", 1: "joy", 2: "fear"}, "label2id": {"anger": 0, "joy": 1, "fear": 2}}
IMAGES: dict[str, Any] = {"image_size": 16, "patch_size": 4, "hidden_size": 32, "intermediate_size": 44}
SIDES = ("encoder", "decoder")


def ids(*shape: int) -> Tensor:
    return torch.randint(3, 60, shape, generator=torch.Generator().manual_seed(1))


def bert(name: str, **options: Any) -> Any:
    return getattr(transformers, f"Bert{name}")(transformers.BertConfig(**SIZES, **options))


def distilbert(name: str, **options: Any) -> Any:
    config = transformers.DistilBertConfig(
        vocab_size=61, dim=32, n_layers=1, n_heads=4, hidden_dim=44, max_position_embeddings=64, **options
    )
    return getattr(transformers, f"DistilBert{name}")(config)


def llama(**options: Any) -> Any:
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2, **options)
    return transformers.LlamaForSequenceClassification(config)


def vit() -> Any:
    config = transformers.ViTConfig(**IMAGES, num_hidden_layers=1, num_attention_heads=4, **COARSE)
    return transformers.ViTForImageClassification(config)


def spectra() -> Any:
    config = transformers.ASTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=44, patch_size=4, max_length=16,
        num_mel_bins=8, frequency_stride=4, time_stride=4, **COARSE,
    )  # fmt: skip
    return transformers.ASTForAudioClassification(config)


def bart() -> Any:
    sizes = {f"{side}_{what}": size for side in SIDES for what, size in (("layers", 1), ("ffn_dim", 44))}
    heads = {f"{side}_attention_heads": 4 for side in SIDES}
    config = transformers.BartConfig(vocab_size=61, d_model=32, max_position_embeddings=64, **sizes, **heads)
    return transformers.BartForConditionalGeneration(config)


def t5(name: str) -> Any:
    config = transformers.T5Config(
        vocab_size=61, d_model=32, d_kv=8, d_ff=44, num_layers=1, num_heads=4, decoder_start_token_id=0, pad_token_id=0
    )
    return getattr(transformers, f"T5{name}")(config)


def whisper() -> Any:
    sizes = {f"{side}_{what}": size for side in SIDES for what, size in (("layers", 1), ("ffn_dim", 44))}
    heads = {f"{side}_attention_heads": 4 for side in SIDES}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = transformers.WhisperConfig(
        vocab_size=64, d_model=32, num_mel_bins=8, max_source_positions=20, max_target_positions=32,
        suppress_tokens=None, begin_suppress_tokens=None, **sizes, **heads, **tokens,
    )  # fmt: skip
    return transformers.WhisperForConditionalGeneration(config)


TEXT, SEQUENCE = {"input_ids": ids(2, 7)}, "AutoModelForSequenceClassification"
ONE, SOUND = {"input_ids": ids(1, 7)}, {"input_features": torch.randn(2, 8, 40)}
SPAN = {"start_positions": torch.tensor([1, 3]), "end_positions": torch.tensor([2, 9])}
SEVERAL = {"problem_type": "multi_label_classification", **COARSE}
CLASSES, TOKENS, IGNORED = torch.tensor([2, 0]), ids(2, 7) % 3, torch.tensor([[4, 9, -100, 5, 2], [3, 7, 8, 1, 2]])

CASES: dict[str, tuple[Callable[[], Any], str, dict[str, Tensor], dict[str, Tensor]]] = {
    "sentiment": (lambda: bert("ForSequenceClassification", **COARSE), SEQUENCE, TEXT, {"labels": CLASSES}),
    "several": (
        lambda: distilbert("ForSequenceClassification", **SEVERAL), SEQUENCE, TEXT, {"labels": torch.rand(2, 3)}
    ),
    "reward": (lambda: llama(num_labels=1, pad_token_id=0), SEQUENCE, TEXT, {"labels": torch.randn(2, 1)}),
    "reward without padding": (lambda: llama(num_labels=1), SEQUENCE, ONE, {"labels": torch.randn(1, 1)}),
    "names": (
        lambda: distilbert("ForTokenClassification", **COARSE), "AutoModelForTokenClassification", TEXT,
        {"labels": TOKENS},
    ),
    "answers": (lambda: bert("ForQuestionAnswering"), "AutoModelForQuestionAnswering", TEXT, SPAN),
    "choices": (
        lambda: bert("ForMultipleChoice"), "AutoModelForMultipleChoice", {"input_ids": ids(2, 3, 7)},
        {"labels": CLASSES},
    ),
    "masks": (lambda: bert("ForMaskedLM"), "AutoModelForMaskedLM", TEXT, {"labels": ids(2, 7)}),
    "follows": (
        lambda: bert("ForNextSentencePrediction"), "AutoModelForNextSentencePrediction", TEXT,
        {"labels": torch.tensor([1, 0])},
    ),
    "embeddings": (lambda: bert("Model"), "AutoModel", TEXT, {}),
    "images": (
        vit, "AutoModelForImageClassification", {"pixel_values": torch.randn(2, 3, 16, 16)}, {"labels": CLASSES}
    ),
    "sounds": (
        spectra, "AutoModelForAudioClassification", {"input_values": torch.randn(2, 16, 8)}, {"labels": CLASSES}
    ),
    "summary": (bart, "AutoModelForSeq2SeqLM", TEXT, {"labels": IGNORED}),
    "translation": (lambda: t5("ForConditionalGeneration"), "AutoModelForSeq2SeqLM", TEXT, {"labels": IGNORED}),
    "tags": (lambda: t5("ForTokenClassification"), "AutoModelForTokenClassification", TEXT, {"labels": ids(2, 7) % 2}),
    "speech": (whisper, "AutoModelForSpeechSeq2Seq", SOUND, {"labels": IGNORED}),
}  # fmt: skip


def build(name: str) -> Any:
    torch.manual_seed(0)
    model = CASES[name][0]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The generic checkpoint of a case, written once."""
    written: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in written:
            written[name] = tmp_path_factory.mktemp(name.replace(" ", "-"))
            HuggingFace(form="generic").export(capture(build(name)), written[name])
        return written[name]

    return write


@pytest.mark.parametrize("name", CASES)
def test_the_generic_form_has_the_interface_of_its_source(name: str, folders: Callable[[str], Path]) -> None:
    _, auto, inputs, labels = CASES[name]
    source, found = build(name), getattr(transformers, auto).from_pretrained(folders(name)).eval()
    assert type(found).__name__.startswith("Graphprune")
    with torch.no_grad():
        wanted, given = source(**inputs, **labels), found(**inputs, **labels)
    if isinstance(wanted, transformers.modeling_outputs.BaseModelOutputWithPoolingAndCrossAttentions):
        assert type(given) is transformers.modeling_outputs.BaseModelOutputWithPooling
    else:
        assert isinstance(given, type(wanted)) or type(wanted).__name__ == "SequenceClassifierOutputWithPast"
    keys = [key for key in given if key in wanted]
    assert len(keys) == len(given)
    for key in keys:
        torch.testing.assert_close(given[key], wanted[key], rtol=1e-4, atol=1e-5)
    assert ("loss" in given) == bool(labels)
    assert given[0] is given[keys[0]]
    assert len(given[:2]) == min(2, len(given))
    assert len(found(**inputs, **labels, return_dict=False)) == len(given)


@pytest.mark.parametrize("name", ["sentiment", "several", "reward", "images", "names"])
def test_labels_keep_their_names_and_kind(name: str, folders: Callable[[str], Path]) -> None:
    config, source = transformers.AutoConfig.from_pretrained(folders(name)), build(name).config
    for field in ("id2label", "label2id", "num_labels", "problem_type"):
        assert getattr(config, field) == getattr(source, field)


@pytest.mark.parametrize("name", ["summary", "translation", "speech"])
@pytest.mark.parametrize("beams", [1, 3])
def test_what_reads_and_writes_generates(name: str, beams: int, folders: Callable[[str], Path]) -> None:
    _, auto, inputs, _ = CASES[name]
    found, source = getattr(transformers, auto).from_pretrained(folders(name)).eval(), build(name)
    options = {"do_sample": False, "max_new_tokens": 6, "num_beams": beams, "eos_token_id": None}
    wanted = source.generate(**inputs, **options)
    assert torch.equal(found.generate(**inputs, **options)[:, -wanted.shape[1] :], wanted)  # Whisper leaves out <start>


@pytest.mark.parametrize("name", CASES)
def test_it_is_saved_and_loaded_again_by_the_same_auto_class(
    name: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    _, auto, inputs, labels = CASES[name]
    config = json.loads((folders(name) / "config.json").read_text())
    assert auto in config["auto_map"]
    model = getattr(transformers, auto).from_pretrained(folders(name)).eval()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == config["auto_map"]
    again = getattr(transformers, auto).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs, **labels)[0], model(**inputs, **labels)[0])
    before, after = capture(folders(name)), tmp_path / "again"
    HuggingFace().export(before, after)
    assert json.loads((after / "config.json").read_text())["auto_map"] == config["auto_map"]


def test_what_cannot_be_computed_is_said(folders: Callable[[str], Path]) -> None:
    model = transformers.AutoModel.from_pretrained(folders("embeddings"))
    with pytest.raises(ValueError, match="computes no loss of labels"):
        model(**TEXT, labels=CLASSES)
    speaker = transformers.AutoModelForSpeechSeq2Seq.from_pretrained(folders("speech"))
    with pytest.raises(ValueError, match="also needs the inputs decoder_input_ids"):
        speaker(**SOUND)
    padded = torch.ones(2, 40, dtype=torch.long).index_fill(1, torch.tensor([39]), 0)
    with pytest.raises(ValueError, match="takes no attention_mask"):
        speaker(**SOUND, decoder_input_ids=ids(2, 3), attention_mask=padded)
    with pytest.raises(ValueError, match="gives no hidden states"):
        model(**TEXT, output_hidden_states=True)


def test_a_class_has_the_auto_class_that_is_its_own() -> None:
    assert auto_class("T5ForConditionalGeneration") == "AutoModelForSeq2SeqLM"  # for pretraining, too
    assert auto_class("RobertaForMaskedLM") == "AutoModelForMaskedLM"
    assert auto_class("BertForPreTraining") == "AutoModelForPreTraining"
    assert auto_class("NoSuchModel") == "AutoModel"
    assert interface_of("GPT2LMHeadModel", "decoder") == Interface("AutoModelForCausalLM", "GraphpruneForCausalLM")
    assert interface_of("GPT2LMHeadModel", "encoder") == Interface("AutoModel", "GraphpruneModel")
    assert interface_of("DPTForDepthEstimation", "encoder") == Interface(
        "AutoModelForDepthEstimation", "GraphpruneModel"
    )
    assert Interface(SEQUENCE, "").task == "text-classification"
    assert Interface("AutoModelForMultipleChoice", "").task is None
