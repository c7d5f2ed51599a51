"""Upcycling: a dense model and the same model as experts, trained alike, and the least used experts cut from it.

    python benchmarks/upcycling.py --data-root ../shared/data

Prints the table of docs/methods/upcycling.md: the difference of logits before training in float64, bits per byte of the
first 100,000 bytes of the validation text after `--steps` steps of 8 x 128 tokens, and after experts were cut by the
tokens that they are given. Some 15 minutes of a processor for each seed.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_WAYS = (("dense", None), ("top=2, balance", 2), ("top=1, auction", 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.environ.get("GRAPHPRUNE_DATA", "../shared/data")
    parser.add_argument("--data-root", type=Path, default=Path(root))
    parser.add_argument("--model", default="stories3M-hf")
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--bytes", type=int, default=100_000)
    arguments = parser.parse_args()
    print(
        "| seed | model | parameters | logits before | bits per byte before | after | experts cut to | bits per byte |"
    )
    print("|---|---|---:|---:|---:|---:|---|---|")
    for seed in range(arguments.seeds):
        for row in measure(arguments, seed):
            print(f"| {seed} | {' | '.join(row)} |", flush=True)


def measure(arguments: argparse.Namespace, seed: int) -> Iterator[list[str]]:
    import graphprune
    from graphprune.data.calibration import prepare_text
    from graphprune.passes.transforms.recover import Recover
    from graphprune.passes.transforms.upcycle import Upcycle

    texts = arguments.data_root / "corpora" / "tinystories"
    train, held_out = (str(texts / f"tinystories_{name}.txt") for name in ("train_head_2MiB", "val_794K"))
    source = graphprune.capture(str(arguments.data_root / "models" / arguments.model))
    text = prepare_text(source, train, 128, 128, seed, held_out)
    context = graphprune.Context(
        calibration=text.batches, seed=seed, source=source, tokenizer=text.tokenizer, data=train
    )

    def bits(graph: Any) -> float:
        return measured(graph, text, arguments.bytes)

    for name, top in _WAYS:
        start = source if top is None else Upcycle(arguments.experts, top).run(source, context)
        asked: dict[str, Any] = {} if top is None else {"balance": 0.01} if top > 1 else {"routing": "auction"}
        asked |= {"steps": arguments.steps, "rows": 8, "length": 128, "lr": arguments.lr, "eval_every": 0}
        trained = Recover(**asked).run(start, context)
        row = [name, f"{start.parameter_count():,}", "" if top is None else f"{difference(source, start):.1e}"]
        row += [f"{bits(start):.4f}", f"{bits(trained):.4f}"]
        cuts = [cut_experts(trained, left, context) for left in (3, 2) if top is not None and left < arguments.experts]
        yield [*row, "" if top is None else "3, 2", ", ".join(f"{bits(each):.4f}" for each in cuts)]


def measured(graph: Any, text: Any, most: int) -> float:
    """Bits per byte of the first bytes of the held-out text."""
    from graphprune.running.perplexity import perplexity

    count = int(len(text.held_out) * min(1.0, most / text.held_out_bytes))
    size = text.tokenizer.decode(text.held_out[:count].tolist())
    found = perplexity(graph, text.held_out[:count], 256, bos=text.bos, text_bytes=len(size.encode()))
    assert found.bits_per_byte is not None
    return found.bits_per_byte


def difference(source: Any, made: Any) -> float:
    """The largest difference of any logit of random tokens, both computed in float64."""
    import torch

    from graphprune.running.inputs import decoder_inputs

    ids = torch.randint(100, (2, 32), generator=torch.Generator().manual_seed(0))
    wide = [double(graph)(*map(as_double, decoder_inputs(graph, ids)))[0] for graph in (source, made)]
    return float((wide[0] - wide[1]).abs().max())


def as_double(tensor: Any) -> Any:
    return tensor.double() if tensor.is_floating_point() else tensor


def double(graph: Any) -> Any:
    """The graph in float64, casts to float32 included."""
    import torch

    made = graph.with_tensors({n: as_double(t.detach()) for n, t in graph.tensors().items()})
    for node in made.nodes:
        node.args = tuple(torch.float64 if each == torch.float32 else each for each in node.args)
        node.kwargs = {name: torch.float64 if v == torch.float32 else v for name, v in node.kwargs.items()}
    made.module.recompile()
    return made


def cut_experts(graph: Any, left: int, context: Any) -> Any:
    """The graph with so many experts in each layer, those that are given the most tokens."""
    from graphprune.analysis.analyse import analyze
    from graphprune.ir.plan import Plan
    from graphprune.passes.importance.routed_tokens import RoutedTokens
    from graphprune.pruning.interfaces import view
    from graphprune.rewriting.apply import apply

    experts = [group for group in analyze(graph).groups if group.kind == "experts"]
    scores = RoutedTokens().score(view(graph, experts, context.calibration[:4]))
    return apply(graph, Plan({id: tuple(sorted(each.topk(left).indices.tolist())) for id, each in scores.items()}))


if __name__ == "__main__":
    main()
