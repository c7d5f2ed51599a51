"""A tiny model as a user has one: a folder with weights, a tokenizer, a chat template, a licence and some text."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

WORDS = "the cat sat on a mat and the dog ran to the red barn while birds sang low songs over green hills "
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def write_source(folder: Path, **changes: Any) -> Path:
    """Write a Llama of two layers in bf16, with `changes` to its configuration, and return its folder."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [WORDS], trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>"], initial_alphabet=alphabet)
    )
    fast: Any = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {"num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": True}
    config = transformers.LlamaConfig(
        **{"vocab_size": 300, **sizes, **more, "bos_token_id": 0, "eos_token_id": 0, **changes}
    )
    torch.manual_seed(0)
    model: Any = transformers.LlamaForCausalLM(config)
    model.bfloat16().save_pretrained(folder)
    (folder / "LICENSE").write_text("Do what you like.\n")
    (folder / "text.txt").write_text(WORDS * 60)
    return folder
