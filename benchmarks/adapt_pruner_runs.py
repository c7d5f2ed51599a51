"""The runs of benchmarks/adapt_pruner.py: the rows, and how each is measured."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from graphprune.amounts import parse_target
from graphprune.budget.budgets import Budget
from graphprune.data.calibration import prepare_text
from graphprune.data.tokens import encode, load_tokenizer
from graphprune.errors import BudgetError
from graphprune.evaluation.minimal_pairs import mean_accuracy, minimal_pairs
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.pipeline.recipes import read_recipe
from graphprune.pruning.rounds import Request, prune
from graphprune.running.perplexity import perplexity
from graphprune.spec import parse_spec

MODELS = ("stories3M-hf", "babyllama-tok105-hf", "stories260K-hf")
SHARES = ("80%", "60%", "40%")
SEEDS = (0, 1, 2)
CALIBRATION = "corpora/tinystories/tinystories_train_head_2MiB.txt"
VALIDATION = "corpora/tinystories/tinystories_val_794K.txt"
PAIRS, PAIRS_A_SET = "eval/blimp", 100
VALIDATION_BYTES, WINDOW = 100_000, 256
ELEMENT = "taylor{aggregate=element,gradients=batch}"
BLOCKS = ("mlp", "attention")


@dataclass(frozen=True)
class Method:
    """A row: the parts of a method, all specs of the command line. `steps` are rounds for each fifth removed."""

    name: str
    importance: str
    allocation: str
    compensation: str | None = None
    kinds: tuple[str, ...] = ("auto",)
    floor: float | None = None
    steps: int = 1
    each_fifth: bool = False
    samples: int = 512
    length: int = 64


def recipe_row(name: str, title: str) -> Method:
    """The row of a recipe that is shipped."""
    recipe = read_recipe(name)
    part, text = recipe.prune, recipe.calibration
    return Method(
        title,
        part.importance,
        part.allocation,
        part.compensation,
        tuple(part.kinds),
        part.floor,
        part.steps,
        samples=text.samples,
        length=text.length,
    )


METHODS = (
    Method("random, uniform", "random", "uniform"),
    Method("magnitude, uniform", "magnitude", "uniform"),
    Method("LLM-Pruner: element Taylor, uniform", ELEMENT, "uniform", kinds=BLOCKS, floor=0.0),
    Method(
        "Adapt-Pruner as published", ELEMENT, "adaptive{amplitude=1}", kinds=BLOCKS, floor=0.0, steps=12,
        each_fifth=True, samples=128,
    ),
    recipe_row("adapt-pruner", "Adapt-Pruner here (recipe adapt-pruner)"),
    Method("uniform Taylor + least squares", ELEMENT, "uniform", "least-squares", BLOCKS, 0.0),
    recipe_row("adapt-pruner-ls", "Adapt-Pruner + least squares (recipe adapt-pruner-ls)"),
)  # fmt: skip
HERE, LAST = METHODS[4].name, METHODS[6].name
DENSE = Method("dense", "none", "none")


@dataclass(frozen=True)
class Run:
    """One cell and seed. The method is kept whole, so that a changed recipe is measured anew."""

    model: str
    share: str
    method: Method
    seed: int


@dataclass(frozen=True)
class Found:
    """What a run gave; `parameters` 0 says that the size could not be reached."""

    run: Run
    parameters: int
    bits_per_byte: float
    pairs: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Subject:
    """A captured model with its tokenizer and the validation tokens."""

    graph: Graph
    tokenizer: object
    tokens: Tensor
    text_bytes: int


def plan_runs() -> Iterator[Run]:
    """First every method once at every size of every model, then further seeds."""
    yield from (Run(model, "100%", DENSE, 0) for model in MODELS)
    for seed in SEEDS:
        for model in MODELS:
            for method in METHODS:
                if seed == SEEDS[0] or method.importance != "magnitude":  # which no seed changes
                    yield from (Run(model, share, method, seed) for share in SHARES)


def prepare(folder: Path, data: Path) -> Subject:
    graph, tokenizer = capture(folder, dtype=torch.float32), load_tokenizer(folder)
    text = (data / VALIDATION).read_bytes()[:VALIDATION_BYTES].decode("utf-8", "ignore")
    return Subject(graph, tokenizer, encode(tokenizer, [text]), len(text.encode()))


def measure(subject: Subject, run: Run, data: Path) -> Found:
    """Prune, predict the validation text, and judge the minimal pairs."""
    graph, method, began = subject.graph, run.method, time.process_time()
    if method != DENSE:
        text = prepare_text(graph, str(data / CALIBRATION), method.samples, method.length, run.seed)
        importance = f"random{{seed={run.seed}}}" if method.importance == "random" else method.importance
        steps = method.steps * (1 + SHARES.index(run.share)) if method.each_fifth else method.steps
        compensation = parse_spec("compensation", method.compensation) if method.compensation else None
        request = Request(
            Budget(parse_target(run.share, graph.parameter_count())),
            parse_spec("importance", importance),
            parse_spec("allocation", method.allocation),
            method.kinds,
            steps,
            method.floor,
            compensation=compensation,
        )
        try:
            graph = prune(graph, request, text.batches).graph
        except BudgetError:
            return Found(run, 0, 0.0, 0.0, time.process_time() - began)
    seconds = time.process_time() - began
    bos = subject.tokenizer.bos_token_id  # type: ignore[attr-defined]
    result = perplexity(graph, subject.tokens, WINDOW, 16, bos=bos, text_bytes=subject.text_bytes)
    files = sorted((data / PAIRS).glob("*.jsonl"))
    pairs = mean_accuracy(minimal_pairs(graph, files, subject.tokenizer, limit=PAIRS_A_SET))
    assert result.bits_per_byte is not None
    return Found(run, graph.parameter_count(), result.bits_per_byte, pairs, seconds)


def read_results(path: Path) -> dict[Run, Found]:
    """What an earlier run of this script found; a line that was cut short is computed again."""
    found: dict[Run, Found] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        part = entry.pop("run")
        method = Method(**{k: tuple(v) if isinstance(v, list) else v for k, v in part.pop("method").items()})
        found[Run(method=method, **part)] = Found(Run(method=method, **part), **entry)
    return found


def measure_all(data: Path, path: Path, until: float) -> dict[Run, Found]:
    """Every run that has not been measured yet, each written down as soon as it is known."""
    found, subjects = read_results(path), dict[str, Subject]()
    for run in plan_runs():
        if run in found or time.monotonic() > until:
            continue
        if run.model not in subjects:
            subjects[run.model] = prepare(data / "models" / run.model, data)
        found[run] = measure(subjects[run.model], run, data)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(found[run])) + "\n")
        one = found[run]
        print(f"{one.bits_per_byte:.3f} {one.pairs:.3f} {one.seconds:.0f}s: {run.model} {run.share} {run.method.name}")
    return found
