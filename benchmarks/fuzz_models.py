"""The whole models that fuzz.py damages: a checkpoint with its tokenizer, one in the generic form, ONNX, and a plan."""

import json
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from graphprune.analysis.analyse import analyze
from graphprune.backends.huggingface.backend import HuggingFace
from graphprune.backends.onnx.backend import Onnx
from graphprune.frontend.source import capture
from graphprune.ir.plan import Plan
from graphprune.rewriting.apply import apply

WORDS = ("the", "a", "cat", "dog", "sees", "runs", "who", "is", "not", "big", "small", "in", "on", ".", "?", ":")
TEXT = " ".join(WORDS) + "\n"


def write_models(root: Path) -> None:
    """Write `root/model`, `root/generic` with its ONNX model, `root/plan.json` and `root/text.txt`."""
    transformers.logging.disable_progress_bar()
    folder = root / "model"
    folder.mkdir(parents=True)
    words = {word: index for index, word in enumerate(("<unk>", "<s>", "</s>", *WORDS))}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)
    shape = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "max_position_embeddings": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=24, **shape, **heads)).save_pretrained(folder)
    graph = capture(folder)
    plan = Plan({g.id: tuple(range(g.units // 2 + n % 2)) for n, g in enumerate(analyze(graph).prunable()) if n < 3})
    (root / "plan.json").write_text(plan.to_json())
    small = replace(apply(graph, plan), source=graph.source)
    for backend in (HuggingFace(), Onnx()):
        backend.export(small, root / "generic")
    (root / "text.txt").write_text(TEXT * 40)
    (root / "records.jsonl").write_text((json.dumps({"text": TEXT}) + "\n") * 40)
    (root / "records.json").write_text(json.dumps([{"instruction": TEXT, "input": "", "output": TEXT}] * 40))
    (root / "table.csv").write_text("text\n" + f'"{TEXT.strip()}"\n' * 40)
