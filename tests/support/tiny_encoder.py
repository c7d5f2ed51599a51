"""A tiny sentence encoder as a user has one: a BERT with word pieces, and the files of sentence-transformers."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

SENTENCES = (
    "the cat sat on a mat.", "a dog ran to the red barn.", "birds sang low songs over green hills.",
    "the dog sat.", "red birds ran over the mat and the hills.", "low barn, green mat, red cat.",
)  # fmt: skip
TEXT = "\n".join(f"{first} {second} {third}" for first in SENTENCES for second in SENTENCES for third in SENTENCES[:2])
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_tokenizer(folder: Path) -> int:
    """Write a tokenizer of word pieces and return how many it has."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator([TEXT], trainers.WordPieceTrainer(vocab_size=90, special_tokens=SPECIAL))
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast: Any = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, mask_token="[MASK]")
    fast.save_pretrained(folder)
    return len(fast)


def write_encoder(folder: Path, pooling: str = "pooling_mode_mean_tokens", **changes: Any) -> Path:
    """Write the encoder with `changes` to its configuration, and return its folder; its text is `text.txt`."""
    count = write_tokenizer(folder)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    config = transformers.BertConfig(**{"vocab_size": count, **sizes, "max_position_embeddings": 32, **changes})
    torch.manual_seed(0)
    model: Any = transformers.BertModel(config)
    with torch.no_grad():
        for parameter in model.parameters():  # larger than a model is begun with: tokens are to be told apart
            parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    named = (("", "sentence_transformers.models.Transformer"), ("1_Pooling", "sentence_transformers.models.Pooling"))
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(named)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16}))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 24, pooling: True}))
    (folder / "text.txt").write_text(TEXT)
    return folder
