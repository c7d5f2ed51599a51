"""A language model in a folder as writer: it goes on with the text, sampled."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphprune.errors import SourceError, UsageError, first_line, foreign
from graphprune.pruning.proposers.answers import Writer


def require_folder(folder: Path) -> None:
    """Raise UsageError where there is no model in a folder."""
    if not (folder / "config.json").is_file():
        raise UsageError(f"the proposer {folder} is no folder of a language model: it has no config.json")


def open_folder(folder: Path, seed: int) -> Writer:
    """A model of text in a folder, of Hugging Face form; none of its code runs, and no network is used.

    Raises SourceError where it cannot be opened.
    """
    import transformers

    with foreign(lambda error: SourceError(f"the proposer in {folder} cannot be opened: {first_line(error)[:200]}")):
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, **options)
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, **options).eval()

    def closed(ids: Tensor, scores: Any, **rest: Any) -> Tensor:
        return torch.tensor(["]" in tokenizer.decode(ids[0, -1:])])

    def write(text: str, tokens: int, number: int, /) -> str:
        given = tokenizer(text, return_tensors="pt")
        end = tokenizer.eos_token_id or 0
        options = {"do_sample": True, "temperature": 0.8, "max_new_tokens": tokens, "pad_token_id": end}
        with torch.random.fork_rng([]):
            torch.manual_seed(seed * 1_000_003 + number)
            made = model.generate(**given, **options, stopping_criteria=[closed])
        return str(tokenizer.decode(made[0, given["input_ids"].shape[1] :], skip_special_tokens=True))

    return write
