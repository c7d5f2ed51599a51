"""Adapters merged: W + scale B A to the bit, as PEFT merges them, or one line that says why not."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from graphprune.compiler.compile import compile_model
from graphprune.errors import SourceError
from graphprune.frontend.merging import tied_names
from graphprune.frontend.places import locate, look_at
from graphprune.pipeline.options import CompileOptions
from tests.support.tiny_adapter import factors, write_adapter
from tests.support.tiny_source import write_source

DOWN, QUERY = "model.layers.1.mlp.down_proj", "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("untied"), tie_word_embeddings=False)


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2, whose weights have inputs first."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("turned")
    config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=12, n_layer=1, n_head=2, bos_token_id=0)
    model: Any = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


@pytest.mark.parametrize("rank", [1, 4, 40])
@pytest.mark.parametrize("rank_stabilised", [False, True])
@pytest.mark.parametrize("alpha", [8, 0.5])
def test_a_weight_is_itself_and_the_scaled_product(
    source: Path, tmp_path: Path, rank: int, rank_stabilised: bool, alpha: float
) -> None:
    """To the bit, by a reference of two lines; what the adapter does not name is as it was."""
    tensors = factors(DOWN, 32, 44, rank) | factors(QUERY, 32, 32, rank, 1)
    own = {"alpha_pattern": {"q_proj": 3}}
    adapter = write_adapter(tmp_path / "a", str(source), tensors, lora_alpha=alpha, use_rslora=rank_stabilised, **own)
    before, after = weights(source), weights(look_at(str(adapter)))
    for module, top in ((DOWN, alpha), (QUERY, 3)):
        scale = top / (math.sqrt(rank) if rank_stabilised else rank)
        product = tensors[f"{module}.lora_B.weight"].double() @ tensors[f"{module}.lora_A.weight"].double()
        wanted = (before[f"{module}.weight"].double() + scale * product).to(torch.bfloat16)
        assert torch.equal(after[f"{module}.weight"], wanted)
    others = before.keys() - {f"{DOWN}.weight", f"{QUERY}.weight"}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in others)


def test_inputs_come_first_where_the_class_has_them_so(turned: Path, tmp_path: Path) -> None:
    tensors = factors("transformer.h.0.attn.c_proj", 12, 12) | factors("transformer.h.0.attn.c_attn", 36, 12)
    adapter = write_adapter(tmp_path / "a", str(turned), tensors, fan_in_fan_out=True)
    before, after = weights(turned), weights(look_at(str(adapter)))
    for name in ("c_proj", "c_attn"):
        module = f"transformer.h.0.attn.{name}"
        change = 2 * (tensors[f"{module}.lora_B.weight"].double() @ tensors[f"{module}.lora_A.weight"].double())
        assert torch.equal(after[f"{module}.weight"], (before[f"{module}.weight"].double() + change.T).float())


def test_embeddings_and_modules_trained_whole(untied: Path, tmp_path: Path) -> None:
    a, b = torch.randn(4, 300), torch.randn(32, 4)
    head = torch.randn(300, 32)
    tensors = {"model.embed_tokens.lora_embedding_A": a, "model.embed_tokens.lora_embedding_B": b}
    before = weights(untied)
    kept = {"model.embed_tokens.base_layer.weight": before["model.embed_tokens.weight"], "lm_head.weight": head}
    adapter = write_adapter(tmp_path / "a", str(untied), tensors | kept, modules_to_save=["lm_head"])
    after = weights(look_at(str(adapter)))
    wanted = before["model.embed_tokens.weight"].double() + 2 * (b.double() @ a.double()).T
    assert torch.equal(after["model.embed_tokens.weight"], wanted.to(torch.bfloat16))
    assert torch.equal(after["lm_head.weight"], head.to(torch.bfloat16))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_peft_merges_to_the_same(source: Path, tmp_path: Path, rank_stabilised: bool) -> None:
    peft: Any = pytest.importorskip("peft")
    torch.manual_seed(1)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model.save_pretrained(tmp_path / "wide")
    targets = ["q_proj", "down_proj"]
    config = peft.LoraConfig(
        r=6, lora_alpha=9, target_modules=targets, use_rslora=rank_stabilised, rank_pattern={"q_proj": 3}
    )
    model.name_or_path = str(tmp_path / "wide")
    tuned = peft.get_peft_model(model, config)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    tuned.save_pretrained(tmp_path / "adapter")
    found = weights(look_at(str(tmp_path / "adapter")))
    for name, tensor in tuned.merge_and_unload().state_dict().items():
        if name in found:
            torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-6)


def test_an_adapter_compiles_like_its_merged_model(source: Path, tmp_path: Path) -> None:
    """Its base is named from the adapter's own folder, and its tokenizer goes with it."""
    adapter = write_adapter(source / "tuned", "..", factors(DOWN, 32, 44))
    plain = CompileOptions(str(adapter), "80%", tmp_path / "out", data=str(source / "text.txt"), samples=4, length=16)
    compile_model(CompileOptions(**{**vars(plain), "backends": ("huggingface",)}))
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert "graphprune-" not in (tmp_path / "out" / "graphprune" / "report.json").read_text()


def test_shapes_are_the_base_s_where_no_weights_are_read(source: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a", str(source), factors(DOWN, 32, 44))
    assert locate(str(adapter), False, False) == (source, None)


@pytest.mark.parametrize(
    ("tensors", "changes", "said"),
    [
        (
            {
                "model.embed_tokens.lora_embedding_A": torch.ones(1, 300),
                "model.embed_tokens.lora_embedding_B": torch.ones(32, 1),
            },
            {},
            "shares among modules",
        ),
        ({"lm_head.weight": torch.ones(300, 32)}, {}, "shares among modules"),
        ({"model.embed_tokens.weight": torch.ones(301, 32)}, {}, r"is \[301, 32\] in it and \[300, 32\] in its base"),
        ({"score.weight": torch.ones(2, 32)}, {}, "its base has no weight score.weight"),
        (factors("model.layers.7.mlp.down_proj", 32, 44), {}, "its base has no module model.layers.7.mlp.down_proj"),
        (factors("model.norm", 32, 32), {}, "model.norm is a LlamaRMSNorm"),
        (factors(DOWN, 44, 32), {}, r"is \[44, 32\], and .* \[32, 44\]"),
        ({f"{DOWN}.lora_A.weight": torch.ones(4, 44)}, {}, "one half of the product"),
        (factors(DOWN, 32, 44) | {f"{DOWN}.lora_magnitude_vector": torch.ones(32)}, {}, "more than W"),
        (
            {f"{DOWN}.lora_A.weight": torch.ones(4), f"{DOWN}.lora_B.weight": torch.ones(32)},
            {},
            "not one of two matrices",
        ),
        ({f"{DOWN}.lora_A.weight": torch.full((4, 44), math.nan)}, {}, "NaN"),
        (
            {f"{DOWN}.lora_A.weight": torch.full((1, 44), 3e38), f"{DOWN}.lora_B.weight": torch.full((32, 1), 3e38)},
            {},
            "infinite",
        ),
    ],
)
def test_what_cannot_be_merged_is_one_line(
    source: Path, tmp_path: Path, tensors: dict[str, torch.Tensor], changes: dict[str, Any], said: str
) -> None:
    adapter = write_adapter(tmp_path / "a", str(source), tensors, **changes)
    with pytest.raises(SourceError, match=said) as caught:
        look_at(str(adapter))
    assert "\n" not in str(caught.value)


def test_shared_weights_have_several_names() -> None:
    first, second = torch.nn.Linear(2, 2, False), torch.nn.Linear(2, 2, False)
    second.weight = first.weight
    assert tied_names(torch.nn.Sequential(first, second)) == {"0.weight", "1.weight"}
