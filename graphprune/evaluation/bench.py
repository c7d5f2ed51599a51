"""Speed and memory of ONNX models, measured side by side: each in a process of its own, runs taking turns."""

import importlib.util
import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, TypedDict

from graphprune.budget.installed import require_opener
from graphprune.errors import GraphpruneError, UsageError
from graphprune.processes import child_command
from graphprune.progress import Progress
from graphprune.running.timing import Rate, rate_of

Engine = Literal["onnxruntime", "genai"]


class Run(TypedDict):
    """What a worker answers: seconds of both parts, and the most bytes of memory that it took."""

    prefill: float
    decode: float
    peak: int


@dataclass(frozen=True)
class Subject:
    """An ONNX folder, what it is called in the table, and what runs it."""

    label: str
    folder: Path
    engine: Engine = "onnxruntime"


@dataclass(frozen=True)
class Setting:
    """One prompt of `context` tokens, `tokens` more after the first new one, `runs` times."""

    context: int = 256
    tokens: int = 64
    runs: int = 5
    threads: int | None = None
    provider: str = "auto"


@dataclass(frozen=True)
class Speed:
    """Medians over the runs: tokens a second, milliseconds to the first token; the peak and the file in bytes."""

    subject: Subject
    prefill: Rate
    decode: Rate
    first: float
    memory: int
    size: int


def models_in(out: Path) -> tuple[Path, ...]:
    """The folders of ONNX models in an artefact, or the folder itself."""
    if (out / "model.onnx").is_file():
        return (out,)
    return tuple(sorted(path.parent for path in out.glob("*/model.onnx")))


def engines(wanted: Sequence[str]) -> tuple[Engine, ...]:
    """Raises UsageError for one that is unknown or not installed."""
    known: dict[str, Engine] = {"onnxruntime": "onnxruntime", "genai": "genai"}
    unknown = next((name for name in wanted if name not in known), None)
    if unknown is not None:
        raise UsageError(f"unknown engine {unknown}; use onnxruntime or genai")
    if "genai" in wanted and importlib.util.find_spec("onnxruntime_genai") is None:
        raise UsageError("onnxruntime-genai is not installed; pip install onnxruntime-genai, or leave out genai")
    return tuple(known[name] for name in wanted)


def bench(subjects: Sequence[Subject], setting: Setting, progress: Progress) -> tuple[Speed, ...]:
    """Time all subjects, run by run in turns, so that a busy moment of the machine meets all of them.

    Raises GraphpruneError naming the model that does not run.
    """
    if setting.context < 1 or setting.tokens < 1 or setting.runs < 1:
        raise UsageError("measuring needs at least one token of context, one new token and one run")
    found: dict[Subject, list[Run]] = {subject: [] for subject in subjects}
    with ExitStack() as stack:
        workers = {}
        for index, subject in enumerate(subjects):
            progress(f"opening {subject.label}", index, len(subjects))
            workers[subject] = stack.enter_context(worker(subject, setting))
        for index in range(setting.runs):
            progress("measuring", index, setting.runs)
            for subject, process in workers.items():
                found[subject].append(ask(subject, process, "run"))
    return tuple(summarise(subject, setting, runs) for subject, runs in found.items())


@contextmanager
def worker(subject: Subject, setting: Setting) -> Iterator["subprocess.Popen[str]"]:
    """A process with the model open and warm."""
    command = child_command("graphprune.evaluation.bench_worker")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            work: dict[str, object] = {
                "folder": str(subject.folder),
                "engine": subject.engine,
                "backend": require_opener(subject.folder).name,
                "provider": setting.provider,
            }
            work |= {"context": setting.context, "tokens": setting.tokens, "threads": setting.threads}
            ask(subject, process, json.dumps(work))
            yield process
        finally:
            process.kill()


def ask(subject: Subject, process: "subprocess.Popen[str]", line: str) -> Run:
    """Send a line and wait for the answer. Raises GraphpruneError where the process ended or says why it cannot."""
    stdin, stdout, stderr = pipes(process)
    try:
        stdin.write(line + "\n")
        stdin.flush()
        answer = json.loads(stdout.readline())
    except (BrokenPipeError, ValueError) as error:
        said = stderr.read().strip().splitlines()
        raise GraphpruneError(
            f"{subject.label} does not run in {subject.engine}: {(said or ['it ended'])[-1]}"
        ) from error
    if "error" in answer:
        raise GraphpruneError(answer["error"])
    measured: Run = answer
    return measured


def pipes(process: "subprocess.Popen[str]") -> tuple[IO[str], IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    return process.stdin, process.stdout, process.stderr


def summarise(subject: Subject, setting: Setting, runs: Sequence[Run]) -> Speed:
    prefill = rate_of(setting.context, [run["prefill"] for run in runs])
    return Speed(
        subject,
        prefill=prefill,
        decode=rate_of(setting.tokens, [run["decode"] for run in runs]),
        first=1000 * setting.context / prefill.value,
        memory=runs[-1]["peak"],
        size=require_opener(subject.folder).size_in(subject.folder),
    )
