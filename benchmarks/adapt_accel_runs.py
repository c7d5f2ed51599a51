"""The runs of benchmarks/adapt_accel.py: what is cut and trained how, and how it is measured."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from graphprune.amounts import parse_target
from graphprune.budget.budgets import Budget
from graphprune.data.calibration import Text, prepare_text
from graphprune.data.stream.packing import Stream, open_stream
from graphprune.data.tokens import encode, load_tokenizer
from graphprune.evaluation.minimal_pairs import mean_accuracy, minimal_pairs
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.pipeline.token_shares import Shares, split_whole, stage_shares
from graphprune.pruning.rounds import Request, Surroundings, prune
from graphprune.running.perplexity import perplexity
from graphprune.spec import parse_spec
from graphprune.training.options import Moments, TrainOptions
from graphprune.training.train import train

TRAINING = "corpora/tinystories/tinystories_train_head_2MiB.txt"
VALIDATION = "corpora/tinystories/tinystories_val_794K.txt"
PAIRS, PAIRS_A_SET = "eval/blimp", 100
VALIDATION_BYTES, COURSE_BYTES, WINDOW = 100_000, 20_000, 256
SAMPLES, LENGTH = 32, 128  # calibration windows, and the tokens in each
ROWS, STEPS = 4, 128  # rows of WINDOW tokens a step; steps of one training
TOKENS = ROWS * STEPS * WINDOW
CUTS = 5  # rounds of scoring and cutting of every method, one a stage where training is interleaved
LATE = stage_shares(2, "late")[-1]  # the share of the tokens after the last cut, where they are late
LOOKS = (0, 2, 4, 8, 16, 32, 64)  # steps after the last cut at which the course of the loss is looked at

MODELS = ("stories3M-hf", "babyllama-tok105-hf", "stories260K-hf")
SHARES = ("80%", "60%", "40%")
FIRST = "60%"
SEEDS = (0, 1, 2)
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
CHOSEN = {"stories3M-hf": 3e-4, "babyllama-tok105-hf": 1e-4, "stories260K-hf": 1e-3}  # for what is pruned
CHOSEN_SCRATCH = 1e-3
LONG = 10  # from scratch, also on so many times the tokens


@dataclass(frozen=True)
class Method:
    """How a small model is made: cut in `stages`, trained after each. `scratch` takes only the shape of a cut."""

    stages: int = 1
    moments: Moments = "carry"
    distill: float = 0.0
    compensation: str | None = None
    shares: Shares = "linear"
    schedule: Literal["wsd", "cosine"] = "wsd"
    scratch: bool = False


LEAST_SQUARES = "least-squares{consumers=all}"
MIXED = 0.5  # the weight of the teacher beside the text
LATER = "interleaved, carried, late tokens"
DISTILLED = f"{LATER}, distilled"
METHODS = {
    "once": Method(),
    "interleaved, reset": Method(CUTS, "reset"),
    "interleaved, carried": Method(CUTS),
    LATER: Method(CUTS, shares="late"),
    "once, distilled": Method(distill=MIXED),
    DISTILLED: Method(CUTS, distill=MIXED, shares="late"),
    "once, teacher alone": Method(distill=1.0),
    "once, least squares": Method(compensation=LEAST_SQUARES),
    "once, distilled, least squares": Method(distill=MIXED, compensation=LEAST_SQUARES),
    "scratch": Method(scratch=True),
}
CORE = tuple(METHODS)[:6]
MORE = tuple(METHODS)[6:9]  # at the size in the middle, with one seed
CHOICE = ("once", "interleaved, carried", "scratch")


@dataclass(frozen=True)
class Run:
    """One row: `times` multiplies the tokens that are trained on; `text` is what it is reported on."""

    model: str
    share: str = "100%"
    method: str = "none"
    seed: int = 0
    lr: float = 0.0
    times: int = 1
    text: Literal["validation", "train"] = "validation"


@dataclass(frozen=True)
class Found:
    """The result of a run. `untrained` is the loss after the only cut; `course` has (tokens, bits per byte) pairs.

    The course is that of the model in its final shape, on a shorter text; its last point is at the end of the training.
    """

    run: Run
    parameters: int
    bits_per_byte: float
    accuracy: float | None
    accuracy_error: float | None
    untrained: float | None = None
    course: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Held:
    """Text that is not trained on: its tokens and how many bytes they stand for."""

    tokens: Tensor
    size: int
    bos: int | None

    def bits(self, graph: Graph) -> float:
        result = perplexity(graph, self.tokens, WINDOW, 16, bos=self.bos, text_bytes=self.size)
        assert result.bits_per_byte is not None
        return result.bits_per_byte


@dataclass(frozen=True, eq=False)
class Subject:
    """A captured model with its texts; calibration and rows of training by seed."""

    graph: Graph
    folder: Path
    data: Path
    reported: Held
    watched: Held
    chosen_on: Held
    cuts: dict[tuple[str, str | None, int], Graph] = field(default_factory=dict)

    @cache  # noqa: B019 - subjects live as long as the program
    def calibration(self, seed: int) -> Text:
        spec = str(self.data / TRAINING)
        return prepare_text(self.graph, f"{spec}#train", SAMPLES, LENGTH, seed, f"{spec}#held-out")

    @cache  # noqa: B019
    def stream(self, seed: int) -> Stream:
        tokenizer = load_tokenizer(self.folder)
        return open_stream(f"{self.data / TRAINING}#train", tokenizer, WINDOW, seed, bos=True, batch=ROWS)


def prepare(model: str, data: Path) -> Subject:
    folder = data / "models" / model
    graph, tokenizer = capture(folder, dtype=torch.float32), load_tokenizer(folder)

    def hold(raw: bytes) -> Held:
        text = raw.decode("utf-8", "ignore")
        return Held(encode(tokenizer, [text]), len(text.encode()), tokenizer.bos_token_id)

    validation, training = (data / VALIDATION).read_bytes(), (data / TRAINING).read_bytes()
    held = training[-200_000:][:VALIDATION_BYTES]  # within what `#train` leaves out
    short = hold(validation[:COURSE_BYTES])
    return Subject(graph, folder, data, hold(validation[:VALIDATION_BYTES]), short, hold(held))


def measure(subject: Subject, run: Run) -> Found:
    """Make the model of a run and measure it."""
    began = time.monotonic()
    graph, untrained, course = subject.graph, None, list[tuple[int, float]]()
    held = subject.reported if run.text == "validation" else subject.chosen_on
    if run.method != "none":
        method = METHODS[run.method]
        if method.stages == 1:
            graph = cut(subject, run, method)
            untrained = None if method.scratch else held.bits(graph)
        graph = make(subject, run, method, course)
    pairs = sorted((subject.data / PAIRS).glob("*.jsonl")) if run.text == "validation" else []
    scores = minimal_pairs(graph, pairs, load_tokenizer(subject.folder), PAIRS_A_SET) if pairs else ()
    error = math.sqrt(sum(score.standard_error**2 for score in scores)) / len(scores) if scores else None
    accuracy = mean_accuracy(scores) if scores else None
    spent = round(time.monotonic() - began, 1)
    count = graph.parameter_count()
    return Found(run, count, held.bits(graph), accuracy, error, untrained, tuple(course), spent)


def make(subject: Subject, run: Run, method: Method, course: list[tuple[int, float]]) -> Graph:
    """Cut and train in turns; `course` is filled once the model has its final shape."""
    total = STEPS * run.times
    graph, first = subject.graph, 0
    for stage, steps in enumerate(split_whole(total, stage_shares(method.stages, method.shares)), 1):
        if method.scratch:
            graph = fresh(cut(subject, run, method), run.seed)
        else:
            graph = cut(subject, run, method) if method.stages == 1 else cut_stage(subject, run, method, graph, stage)
        last = stage == method.stages
        looked = last and run.seed == SEEDS[0] and run.text == "validation"
        marks = [step for step in (*LOOKS, *range(STEPS, steps, STEPS)) if step < steps] if looked else [0]
        for mark, end in zip(marks, (*marks[1:], steps), strict=True):
            if looked:
                course.append(((first + mark) * ROWS * WINDOW, subject.watched.bits(graph)))
            options = train_options(run, method, first + mark, end - mark, total, mark == 0)
            teacher = subject.graph if method.distill else None
            graph = train(graph, options, subject.stream(run.seed), teacher).graph
        first += steps
    if run.seed == SEEDS[0]:
        course.append((total * ROWS * WINDOW, subject.watched.bits(graph)))
    return graph


def train_options(run: Run, method: Method, first: int, steps: int, total: int, starts: bool) -> TrainOptions:
    """A stretch of the one schedule; moments are only ever dropped where a stage starts."""
    moments: Moments = method.moments if starts else "carry"
    return TrainOptions(
        steps=steps,
        rows=ROWS,
        lr=run.lr,
        schedule=method.schedule,
        first_step=first,
        total_steps=total,
        first_row=first * ROWS,
        moments=moments,
        distill=method.distill,
        keep="last",
        seed=run.seed,
    )


def request(target: int, final: int, method: Method, steps: int) -> Request:
    compensation = parse_spec("compensation", method.compensation) if method.compensation else None
    taylor, adaptive = parse_spec("importance", "taylor"), parse_spec("allocation", "adaptive")
    return Request(Budget(target), taylor, adaptive, steps=steps, compensation=compensation, final=final)


def cut(subject: Subject, run: Run, method: Method) -> Graph:
    """The whole cut, without training, in as many rounds as the interleaved methods have in all."""
    key = run.share, method.compensation, run.seed
    if key not in subject.cuts:
        target = parse_target(run.share, subject.graph.parameter_count())
        asked = request(target, target, method, CUTS)
        subject.cuts[key] = prune(subject.graph, asked, subject.calibration(run.seed).batches).graph
    return subject.cuts[key]


def cut_stage(subject: Subject, run: Run, method: Method, graph: Graph, stage: int) -> Graph:
    """One of several cuts: the size falls linearly over the stages."""
    whole = subject.graph.parameter_count()
    final = parse_target(run.share, whole)
    target = whole - (whole - final) * stage // method.stages
    asked = request(target, final, method, CUTS // method.stages or 1)
    return prune(graph, asked, subject.calibration(run.seed).batches, Surroundings(source=subject.graph)).graph


def fresh(graph: Graph, seed: int) -> Graph:
    """The same shape with weights as a new Llama has them: normal with the configuration's deviation, norms at 1."""
    generator = torch.Generator().manual_seed(seed)
    deviation = float(getattr(graph.source.config, "initializer_range", 0.02))

    def start(tensor: Tensor) -> torch.nn.Parameter:
        new = torch.ones_like(tensor)
        return torch.nn.Parameter(new.normal_(0.0, deviation, generator=generator) if tensor.dim() > 1 else new)

    with torch.no_grad():
        tensors = {name: start(tensor) for name, tensor in graph.parameters().items()}
    return replace(graph.with_tensors(tensors), companions={}, memo={})


@dataclass(frozen=True)
class Cost:
    """Seconds of the processor and peak memory in MiB above what was there, of one thing done several times."""

    what: str
    seconds: float
    peak: float


def read_lines(path: Path) -> Iterator[dict[str, object]]:
    """The entries of a file of JSON lines; one that was cut short is passed over."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def write_line(path: Path, item: Found | Cost) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(item)) + "\n")
