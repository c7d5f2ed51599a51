"""`graphprune eval`: perplexity and task accuracy of a model, of any of its faces, beside another's."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from graphprune.cli.arguments import MODEL_HELP, Device, Json, Loads, Memory, Trust
from graphprune.cli.console.show import print_json, print_table
from graphprune.cli.console.stages import progress_on_stderr
from graphprune.cli.console.terminal import say, warn
from graphprune.cli.looks import check_models, check_streaming, check_text
from graphprune.drivers import check_device
from graphprune.errors import UsageError
from graphprune.spec import split_commas

if TYPE_CHECKING:
    from graphprune.evaluation.scorecard import Questions, Scorecard, TextScore
    from graphprune.evaluation.task_scores import TaskScore

EXAMPLES = """[bold]Examples[/bold]

graphprune eval demo                                        perplexity on held-out Python, bits per byte

graphprune eval OUT --against MODEL --data val.txt          a pruned model beside the one it was made from

graphprune eval OUT --backend all --data val.txt            graph, checkpoint and ONNX must agree

graphprune eval MODEL --data val.txt --window 512 --stride 128   each token sees at least 383 before it

graphprune eval MODEL --eval-data FOLDER --tasks blimp_local --limit 100   local files, no network

graphprune eval MIXTURE --data val.txt --memory 500MB        experts are read as tokens need them

graphprune eval MODEL --tasks arc_easy,hellaswag            lm-eval's own tasks, from the hub"""

_LARGE_GROUP = 20  # the members of larger groups are in the JSON only

Target = Annotated[
    str, typer.Argument(metavar="MODEL", help=f"{MODEL_HELP} An OUT of compile too.", show_default=False)
]
Against = Annotated[
    str | None, typer.Option(metavar="OTHER", help="A second model, shown beside the first.", show_default=False)
]
Data = Annotated[
    str | None,
    typer.Option(
        help="Text for perplexity: a .txt, .jsonl or .parquet file, a datasets id, or [bold]stdlib:held-out[/bold], "
        "which is read where neither a text nor tasks are named.",
        show_default=False,
    ),
]
Tasks = Annotated[
    str,
    typer.Option(
        help="lm-eval tasks, separated by commas. Names that end in _local (blimp_local, commonsense_local, "
        "mmlu_local, arc_easy_local, ...) read --eval-data; the others need the hub.",
        show_default=False,
    ),
]
EvalData = Annotated[
    Path | None,
    typer.Option(help="The folder of the local tasks' .jsonl files. Alone, it runs all of them.", show_default=False),
]
Stride = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Tokens between windows; with --no-bos the whole window, so that the first token of each is not "
        "predicted. [dim]default: window - 1, no overlap[/dim]",
    ),
]
Shots = Annotated[
    int | None, typer.Option(min=0, help="Worked examples in each prompt. [dim]default: the task's own[/dim]")
]
Dtype = Literal["float32", "bfloat16", "float16"]


def register(app: typer.Typer, asked: str | None) -> None:
    app.command("eval", epilog=EXAMPLES)(eval_command)


def eval_command(
    model: Target,
    against: Against = None,
    data: Data = None,
    tasks: Tasks = "",
    eval_data: EvalData = None,
    backend: Annotated[
        Literal["graph", "checkpoint", "onnx", "all"],
        typer.Option(help="What computes: the captured graph, transformers, onnxruntime, or each that there is."),
    ] = "checkpoint",
    window: Annotated[
        int | None, typer.Option(min=2, help="Tokens a window. [dim]default: 256, or the context[/dim]")
    ] = None,
    stride: Stride = None,
    bos: Annotated[bool, typer.Option(help="Start each window with the tokenizer's first token.")] = True,
    text_bytes: Annotated[
        int | None, typer.Option("--bytes", min=1, help="Read so much of the text only.", show_default=False)
    ] = None,
    text_tokens: Annotated[
        int | None, typer.Option("--tokens", min=2, help="Read so many tokens of the text only.", show_default=False)
    ] = None,
    field: Annotated[str, typer.Option(help="The field of the text in .jsonl, .parquet and data sets.")] = "text",
    limit: Annotated[int | None, typer.Option(min=1, help="Examples of each task at most.", show_default=False)] = None,
    shots: Shots = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows at a time; lower it where memory runs out.")] = 16,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Load the weights in this type. [dim]default: as stored[/dim]")
    ] = None,
    device: Device = "auto",
    memory: Memory = None,
    loads: Loads = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Score a model: perplexity and bits per byte of a text, accuracy on lm-eval tasks.

    Perplexities of different tokenizers do not compare; bits per byte do, on the same text and windows.
    """
    names = split_commas(tasks)
    models = [model] if against is None else [model, against]
    check_device(device)
    check_models(models, backend, trust_remote_code)
    check_text(data, field)
    check_eval_data(eval_data)
    check_streaming(memory, loads, device, trust_remote_code, backend)
    from graphprune.evaluation.scorecard import DEFAULT_TEXT, Questions

    text = data or (None if names or eval_data is not None else DEFAULT_TEXT)
    questions = Questions(
        text, text_bytes, text_tokens, field, window, stride, bos, names, eval_data, limit, shots, batch
    )
    check_questions(questions)
    if memory is None:
        cards = list(score_models(models, backend, questions, dtype, trust_remote_code, device))
    else:
        cards = list(score_streamed(models, questions, dtype, memory, loads))
    if as_json:
        print_json({"scorecards": cards})
    else:
        print_cards(cards)


def check_questions(questions: "Questions") -> None:
    """Refuse before any model is loaded what no model could answer."""
    from graphprune.context import check_windows
    from graphprune.evaluation.task_scores import require_lm_eval

    if questions.window is not None:
        check_windows(questions.window, questions.stride, questions.batch, questions.bos)
    if questions.tasks or questions.data is not None:
        require_lm_eval()


def check_eval_data(folder: Path | None) -> None:
    if folder is not None and not folder.is_dir():
        raise UsageError(f"no folder of evaluation data at {folder}; --eval-data takes a folder of .jsonl files")


def score_models(
    models: Sequence[str], backend: str, questions: "Questions", dtype: str | None, trust: bool, device: str
) -> Iterator["Scorecard"]:
    """One scorecard for each face of each model; one model is in memory at a time."""
    import torch

    from graphprune.evaluation.language_model import FACES, faces_in, load_face
    from graphprune.evaluation.scorecard import fill_in
    from graphprune.running.devices import choose_device, memory_errors, unused_gpu

    type_, place = getattr(torch, dtype) if dtype else None, choose_device(device)
    short = memory_errors("lower --batch or --window, take another --dtype, or compute with --device cpu")
    with progress_on_stderr() as progress, short:
        if (note := unused_gpu(place)) is not None:
            progress(f"note: {note}", 0, 0)
        for name in models:
            known = faces_in(name)
            chosen = known if backend == "all" else tuple(face for face in FACES if face == backend)
            for face in chosen:
                progress(f"loading {name} ({face})", 0, 0)
                yield fill_in(name, load_face(name, face, trust, type_, place), questions, progress)


def score_streamed(
    models: Sequence[str], questions: "Questions", dtype: str | None, memory: str, loads: Path | None
) -> Iterator["Scorecard"]:
    """One scorecard for each model, of whose weights no more than `memory` are held; the log is the last one's."""
    import torch

    from graphprune.evaluation.scorecard import fill_in
    from graphprune.offload.language_model import describe_loads, load_offloaded

    with progress_on_stderr() as progress:
        for name in models:
            progress(f"loading {name} (checkpoint)", 0, 0)
            model, offloaded = load_offloaded(name, memory, loads, getattr(torch, dtype) if dtype else None)
            yield fill_in(name, model, questions, progress)
            offloaded.residents.close()
            warn(f"note: {name}: {describe_loads(offloaded)}")


def print_cards(cards: Sequence["Scorecard"]) -> None:
    labels = short_labels(cards)
    texts = [card.text for card in cards if card.text is not None]
    if texts:
        print_texts(cards, texts, labels)
    if cards[0].tasks:
        print_tasks(cards, labels)


def short_labels(cards: Sequence["Scorecard"]) -> list[str]:
    """The last part of each model's path and its face; whole paths where two models end the same."""
    names = {card.model: Path(card.model).name or card.model for card in cards}
    unique = len(set(names.values())) == len(names)
    return [f"{names[card.model] if unique else card.model} {card.face}" for card in cards]


def print_texts(cards: Sequence["Scorecard"], texts: Sequence["TextScore"], labels: Sequence[str]) -> None:
    """One row for each figure, one column for each scorecard, and the difference of two."""
    rows: list[tuple[str, ...]] = [
        ("window", *(f"{t.window:,}" for t in texts)),
        ("stride", *(f"{t.stride:,}" for t in texts)),
        ("each window starts with", *(t.bos or "the token before" for t in texts)),
        ("dtype", *(card.dtype for card in cards)),
        ("tokens predicted", *(f"{t.tokens:,}" for t in texts)),
        ("bytes", *(f"{t.bytes:,}" for t in texts)),
    ]
    for name, values in (
        ("nats per token", [t.nats_per_token for t in texts]),
        ("perplexity", [t.perplexity for t in texts]),
        ("bits per byte", [t.bits_per_byte for t in texts]),
    ):
        rows.append((name, *(f"{value:.4f}" for value in values), *difference(values)))
    rows = [(*row, *[""] * (len(labels) + (len(labels) == 2) + 1 - len(row))) for row in rows]
    print_table(f"Text: {texts[0].source}", ("", *labels, *differing(labels)), rows)
    for label, text in zip(labels, texts, strict=True):
        if text.unknown:
            count = f"{text.unknown:,} of {text.tokens:,} tokens"
            say(f"note: {label}: {count} are unknown to the tokenizer, which makes the text look easier")


def print_tasks(cards: Sequence["Scorecard"], labels: Sequence[str]) -> None:
    rows = []
    for place, score in enumerate(cards[0].tasks):
        if hidden(score, cards[0].tasks):
            continue
        found = [card.tasks[place] for card in cards]
        name = score.task if score.group or not in_group(score, cards[0].tasks) else f"  {score.task}"
        values = [each.value for each in found]
        shown = [with_error(each) for each in found]
        rows.append((name, score.metric, str(score.shots), f"{score.examples:,}", *shown, *difference(values)))
    columns = ("task", "metric", "shots", "examples", *labels, *differing(labels))
    print_table("Tasks", columns, rows, left=2)
    if any(hidden(score, cards[0].tasks) for score in cards[0].tasks):
        say("note: --json also has the members of the groups that are shown as one line")


def in_group(score: "TaskScore", scores: Sequence["TaskScore"]) -> bool:
    return any(score.task in each.members for each in scores)


def hidden(score: "TaskScore", scores: Sequence["TaskScore"]) -> bool:
    """Say whether a task belongs to a group of too many to show."""
    return any(score.task in each.members and len(each.members) > _LARGE_GROUP for each in scores)


def with_error(score: "TaskScore") -> str:
    return f"{score.value:.4f}" + ("" if score.standard_error is None else f" ± {score.standard_error:.4f}")


def differing(labels: Sequence[str]) -> tuple[str, ...]:
    return ("difference",) if len(labels) == 2 else ()


def difference(values: Sequence[float]) -> tuple[str, ...]:
    """The first less the second, where there are two."""
    return (f"{values[0] - values[1]:+.4f}",) if len(values) == 2 else ()
