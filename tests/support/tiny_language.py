"""A tiny language model on disk with a tokenizer of its own words, and the same model as a graph and in ONNX."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = [
    "the",
    "a",
    "cat",
    "cats",
    "dog",
    "dogs",
    "sees",
    "see",
    "runs",
    "run",
    "who",
    "what",
    "is",
    "are",
    "not",
    "big",
    "small",
    "in",
    "on",
    ".",
    "?",
    ":",
    "Question",
    "Answer",
    "Q",
    "A",
    "B",
    "C",
    "D",
    "yes",
    "no",
    "red",
    "blue",
    "tree",
    "house",
    "The",
    "She",
    "He",
    "they",
]
SPECIAL = ["<unk>", "<s>", "</s>"]


def tokenizer() -> Any:
    """A word tokenizer that puts <s> before a text, as Llama's do; words that it lacks are <unk>."""
    vocabulary = {word: index for index, word in enumerate(SPECIAL + WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def save_model(folder: Path, seed: int = 0) -> Path:
    """Write a random Llama of 40 tokens of context and its tokenizer."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=40,
        bos_token_id=1,
        eos_token_id=2,
    )
    model: Any = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
