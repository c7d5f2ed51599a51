"""Make the embedded model: `python benchmarks/demo_model.py FOLDER` trains it on the standard library."""

import argparse
import json
import math
import platform
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from graphprune.data.library import read_split

VOCABULARY, SEQUENCE, BATCH = 2048, 256, 24
END = "<|endoftext|>"


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on the training files."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def make_model() -> LlamaForCausalLM:
    """Return the untrained model: Llama with grouped-query attention, 2.8 million parameters."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=24,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config)


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """Return one stream of token ids, every file followed by the end token."""
    end = tokenizer.eos_token_id
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return torch.tensor([token for row in rows for token in (*row, end)])


def held_out_loss(model: LlamaForCausalLM, stream: torch.Tensor, windows: int | None = None) -> float:
    """Return the mean loss in nats per token over consecutive windows of the held-out stream."""
    rows = stream[: len(stream) // SEQUENCE * SEQUENCE].view(-1, SEQUENCE)[:windows]
    with torch.no_grad():
        losses = [model(input_ids=part, labels=part).loss.item() * len(part) for part in torch.split(rows, 16)]
    return float(sum(losses) / len(rows))


def optimizers(model: LlamaForCausalLM, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for embeddings and norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)]


def rate_at(step: int, steps: int) -> float:
    """Warm up over 2 %, hold, and fall linearly to zero over the last 40 %."""
    return min(1.0, (step + 1) / (0.02 * steps), (steps - step) / (0.4 * steps))


def train(model: LlamaForCausalLM, stream: torch.Tensor, held_out: torch.Tensor, steps: int, peak: float) -> None:
    """Train in place on random windows of the stream; the seed fixes their order."""
    generator = torch.Generator().manual_seed(1)
    offsets = torch.arange(SEQUENCE)
    parts = optimizers(model, peak)
    began = time.monotonic()
    for step in range(steps):
        starts = torch.randint(len(stream) - SEQUENCE, (BATCH, 1), generator=generator)
        rows = stream[starts + offsets]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in parts:
            part.param_groups[0]["lr"] = peak * rate_at(step, steps)
            part.step()
            part.zero_grad()
        if step % 50 == 0:
            speed = (step + 1) * BATCH * SEQUENCE / (time.monotonic() - began)
            held = f" held-out {held_out_loss(model, held_out, 64):.3f}" if step % 500 == 0 else ""
            print(f"step {step}/{steps} loss {loss.item():.3f}{held} tokens/s {speed:.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--peak", type=float, default=4e-3)
    options = parser.parse_args()
    torch.manual_seed(0)
    texts, held_texts = read_split(held_out=False), read_split(held_out=True)
    tokenizer = make_tokenizer(texts)
    stream, held = encode(tokenizer, texts), encode(tokenizer, held_texts)
    model = make_model()
    print(
        f"{model.num_parameters():,} parameters, {len(stream):,} training and {len(held):,} held-out tokens", flush=True
    )
    train(model, stream, held, options.steps, options.peak)
    model = model.bfloat16()
    model.save_pretrained(options.folder)
    tokenizer.save_pretrained(options.folder)
    loss = held_out_loss(model.float(), held)
    size = sum(len(text.encode()) for text in held_texts)
    record = {
        "held_out_nats_per_token": round(loss, 4),
        "held_out_perplexity": round(math.exp(loss), 3),
        "held_out_bits_per_byte": round(loss * len(held) / math.log(2) / size, 4),
        "window_tokens": SEQUENCE,
        "training_tokens": options.steps * BATCH * SEQUENCE,
        "steps": options.steps,
        "parameters": model.num_parameters(),
        "corpus": f"standard library of Python {platform.python_version()}, without tests",
        "torch": torch.__version__,
    }
    (options.folder / "TRAINING.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
