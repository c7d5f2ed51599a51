"""Embedding training: a pruned model of embeddings learns from its source, and from pairs; no logits of tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from graphprune.analysis.analyse import analyze
from graphprune.analysis.layers import find_layers
from graphprune.encoders.embeddings import Named, require_embeddings
from graphprune.errors import DataError, TrainingError, UsageError
from graphprune.ir.graph import Graph
from graphprune.pruning.sparsity.held import held, with_zeros
from graphprune.running.forms.causal import with_outputs
from graphprune.running.inputs import graph_inputs, rows
from graphprune.running.loss import Comparing, Loss
from graphprune.training.embedding_terms import Terms, read_seen, taught_loss
from graphprune.training.schedule import Shape, learning_rate

Epochs = Callable[[int], Sequence[Named]]


@final
@dataclass(frozen=True)
class EmbeddingOptions:
    """How to train on so many `tokens` of texts: terms, learning rate and its course over tokens, AdamW."""

    tokens: int
    lr: float
    schedule: Shape = "wsd"
    min_lr: float = 0.1
    warmup: float = 0.05
    decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.0
    clip: float = 1.0
    seed: int = 0
    terms: Terms = field(default_factory=Terms)

    def rate(self, done: int) -> float:
        """The learning rate after so many tokens."""
        return learning_rate(
            min(done, self.tokens - 1),
            self.tokens,
            self.lr,
            shape=self.schedule,
            minimum=self.min_lr * self.lr,
            warmup=self.warmup,
            decay=self.decay,
        )


@dataclass(frozen=True, eq=False)
class EmbeddingsTrained:
    """The trained graph, the steps and tokens it took, and the mean loss of its first and of its last steps."""

    graph: Graph
    steps: int
    tokens: int
    first: float
    last: float


def train_embeddings(
    graph: Graph,
    teacher: Graph,
    options: EmbeddingOptions,
    epochs: Epochs,
    loss: Loss,
    report: Callable[[int, int], None] = lambda *_: None,
) -> EmbeddingsTrained:
    """Train all weights of a model of embeddings; the graph that is given stays as it was.

    Batches of `epochs` are gone through in random order, epoch after epoch. The teacher, the source that the graph was
    cut from, says what embeddings, their similarities and the states behind layers should be; a `loss` that compares
    pairs is a term of its own. The same seed gives the same weights on the CPU. Raises TrainingError where the loss is
    not finite.
    """
    require_terms(options.terms, loss)
    student = held(with_states(trainable(graph), teacher))
    leading = with_states(teacher, graph)
    weights = {name: p for name, p in student.parameters().items() if p.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), options.lr, options.betas, weight_decay=options.weight_decay)
    generator = torch.Generator().manual_seed(options.seed)
    done, losses, epoch = 0, list[float](), 0
    while done < options.tokens:
        batches = epochs(epoch)
        if not batches or not any(map(tokens_of, batches)):
            raise DataError("there is nothing to train on; give more text with --data")
        for place in torch.randperm(len(batches), generator=generator).tolist():
            if done >= options.tokens:
                break
            for group in optimizer.param_groups:
                group["lr"] = options.rate(done)
            losses.append(step(student, leading, len(graph.outputs), batches[place], optimizer, options, loss))
            done += tokens_of(batches[place])
            report(min(done, options.tokens), options.tokens)
        epoch += 1
    tenth = max(1, len(losses) // 10)
    first, last = (sum(part) / len(part) for part in (losses[:tenth], losses[-tenth:]))
    return EmbeddingsTrained(finished(graph, weights), len(losses), done, first, last)


def step(
    student: Graph,
    teacher: Graph,
    own: int,
    batch: Named,
    optimizer: torch.optim.Optimizer,
    options: EmbeddingOptions,
    loss: Loss,
) -> float:
    """One update of the weights; returns the loss."""
    embeddings = require_embeddings(student)
    with torch.no_grad():
        taught = read_seen(teacher(*graph_inputs(teacher, batch)), teacher.outputs, own, embeddings, batch)
    with torch.enable_grad():
        values = student(*graph_inputs(student, batch))
        value = taught_loss(read_seen(values, student.outputs, own, embeddings, batch), taught, options.terms)
        if isinstance(loss, Comparing) and options.terms.task and rows(batch) > 1:
            value = value + options.terms.task * loss(values[:own], batch)
        if not bool(torch.isfinite(value.detach())):
            raise TrainingError(f"the loss of embeddings is {float(value.detach())}; lower lr")
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
    if options.clip > 0:
        held = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        torch.nn.utils.clip_grad_norm_(held, options.clip)
    optimizer.step()
    return float(value.detach())


def require_terms(terms: Terms, loss: Loss) -> None:
    """Raise UsageError where nothing is learned."""
    learned = terms.similarity or terms.feature or terms.hidden or (terms.task and isinstance(loss, Comparing))
    if not learned:
        raise UsageError("recover learns nothing with similarity, feature and hidden at 0; give one of them a weight")


def trainable(graph: Graph) -> Graph:
    """The graph with weights of its own that take gradients."""
    own = {name: torch.nn.Parameter(p.detach().clone(), True) for name, p in graph.parameters().items()}
    return graph.with_tensors(own)


def finished(graph: Graph, weights: Mapping[str, Tensor]) -> Graph:
    old, new = graph.parameters(), with_zeros({name: value.detach() for name, value in weights.items()}, graph)
    return graph.with_tensors({n: torch.nn.Parameter(value, old[n].requires_grad) for n, value in new.items()})


def with_states(graph: Graph, other: Graph) -> Graph:
    """The graph that also gives the states behind each layer that both have, where these are equally wide."""
    return with_outputs(
        graph, (*graph.outputs, *(names := common_states(graph, other))), (*result_names(graph), *names)
    )


def common_states(graph: Graph, other: Graph) -> tuple[str, ...]:
    """The names of the nodes that end layers in both graphs, and have the same shape there."""
    shapes = {node.name: node.meta.get("value") for node in other.nodes}
    ends = [layer[-1].add for layer in find_layers(analyze(graph))]
    types = {node.name: node.meta.get("value") for node in graph.nodes}
    return tuple(name for name in ends if name in shapes and str(types[name]) == str(shapes[name]))


def result_names(graph: Graph) -> tuple[str, ...]:
    return tuple(node.name for node in graph.returned)


def tokens_of(batch: Named) -> int:
    """The tokens of texts in a batch, padding left out."""
    mask = batch.get("attention_mask")
    return int(mask.sum()) if mask is not None else int(batch["input_ids"].numel())
