"""A sentence encoder at half of its size: pruned by its own embeddings, and compared with what it was."""

import argparse
from pathlib import Path

import torch
import transformers

import graphprune

SENTENCES = ["A cat sat on the mat.", "A kitten rests on a rug.", "Interest rates rose again in June."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--target", default="50%")
    parser.add_argument("--data", default="stdlib", help="sentences like those that it will embed")
    parser.add_argument("--vocabulary", help="so many tokens stay: half of a small encoder is its tokens")
    parser.add_argument("--out", type=Path, default=Path("small-encoder"))
    asked = parser.parse_args()

    options = {"data": asked.data, "vocabulary": asked.vocabulary, "method": "adapt-pruner-ls"}
    graphprune.compile(graphprune.CompileOptions(asked.model, asked.target, asked.out, **options))
    before, after = embed(asked.model), embed(str(asked.out))
    print("cosine of each sentence with what it was:", torch.cosine_similarity(before, after).tolist())
    print("the first sentence beside the others:", torch.cosine_similarity(after[:1], after[1:]).tolist())


def embed(folder: str) -> torch.Tensor:
    """The mean over tokens, as most sentence encoders have it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=False)
    with torch.no_grad():
        return torch.cat([model(**tokenizer(s, return_tensors="pt")).last_hidden_state.mean(1) for s in SENTENCES])


if __name__ == "__main__":
    main()
