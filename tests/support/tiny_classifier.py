"""A tiny classifier of texts as a user has one: BERT with three labels, with a tokenizer that has masks and pads."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ("the", "cat", "sat", "on", "mat", "who", "joy", "of", "##s", "a")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LABELS = ("anger", "joy", "fear")
SIZES: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 44,
    "max_position_embeddings": 64,
}  # fmt: skip


def write_tokenizer(folder: Path) -> None:
    words = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", words["[SEP]"]), ("[CLS]", words["[CLS]"]))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    fast: Any = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.save_pretrained(folder)


def write_classifier(folder: Path, name: str = "ForSequenceClassification") -> Path:
    """Write a BERT of this class and return its folder."""
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    labels = {} if name == "ForQuestionAnswering" else labels  # its two outputs are no labels
    torch.manual_seed(0)
    model = getattr(transformers, f"Bert{name}")(transformers.BertConfig(**SIZES, **labels))
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder
