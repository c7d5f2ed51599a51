"""What a step of recovery costs beside transformers' Trainer: tokens a second and peak memory, on one checkpoint.

    python benchmarks/recovery_cost.py STUDENT --teacher TEACHER [--rows 4] [--length 512] [--steps 4] [--times 2]
        [--in-file] [--checkpoint off selective full] [--compile] [--states bf16 int8] [--only distilled]

STUDENT is a stock checkpoint, as `graphprune compile --uniform` writes it, TEACHER the model it was made of. Every
number is taken in a process of its own with one torch thread, all ways in turn; the first step is not timed. Seconds
are those that the process computed, which other work on the machine changes less than those of a clock; both are told.
Memory is the process's peak above what it held once both models were read, and the peak itself. Rows are random tokens.
With `--in-file` graphprune's teacher stays in its file, as `compile --memory` has it where there is little. Each of
`--checkpoint`, `--compile` and `--states` adds a way in which graphprune distils; `--only` takes ways with that in
their name.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WAYS = ("Trainer", "graphprune", "Trainer, distilled", "graphprune, distilled")
CHECKPOINTS = ("off", "selective", "full")
STATES = ("bf16", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("--in-file", action="store_true")
    parser.add_argument("--checkpoint", choices=CHECKPOINTS, nargs="*", default=[])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--states", choices=STATES, nargs="*", default=[])
    parser.add_argument("--only", default="")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments)))
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways(arguments) if arguments.only in way}
    for _ in range(arguments.times):
        for way in found:
            found[way].append(apart(way))
            print(way, found[way][-1], file=sys.stderr)
    print(table(found, arguments))


def ways(arguments: argparse.Namespace) -> list[str]:
    """Those that are always measured, and one for each option that is given."""
    options = [f"checkpoint={value}" for value in arguments.checkpoint]
    options += ["compile=true"] * arguments.compile + [f"states={value}" for value in arguments.states]
    return [*WAYS, *(f"graphprune, distilled, {option}" for option in options)]


def apart(way: str) -> dict[str, float]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-W", "ignore", *sys.argv, "--way", way]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def table(found: dict[str, list[dict[str, float]]], arguments: argparse.Namespace) -> str:
    lines = ["| way | tokens/s | of runs | by the clock | peak memory | above the models |", f"|---|{'---:|' * 5}"]
    for way, runs in found.items():
        speeds = [run["speed"] for run in runs]
        peak, above = (max(run[name] for run in runs) / 2**30 for name in ("peak", "above"))
        spread = f"{min(speeds):.1f} to {max(speeds):.1f}"
        speed, clock = statistics.median(speeds), statistics.median(run["clock"] for run in runs)
        lines.append(f"| {way} | {speed:.1f} | {spread} | {clock:.1f} | {peak:.2f} GiB | {above:.2f} GiB |")
    lines.append(f"\n{arguments.rows} rows of {arguments.length} tokens a step, {arguments.steps} steps.")
    return "\n".join(lines)


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    way = ours if arguments.way.startswith("graphprune") else theirs
    return way(arguments, "distilled" in arguments.way)


class Watch:
    """Times the steps behind the first, and memory from where the models are there."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []
        self.before, self.most, self.on = resident(), 0, True
        threading.Thread(target=self.look, daemon=True).start()

    def look(self) -> None:
        while self.on:
            self.most = max(self.most, resident())
            time.sleep(0.02)

    def step(self, *_: object) -> None:
        self.times.append((time.process_time(), time.perf_counter()))

    def told(self, tokens: int) -> dict[str, float]:
        self.on = False
        steps = len(self.times) - 1
        speed, clock = (
            tokens * steps / (end - start) for start, end in zip(self.times[0], self.times[-1], strict=True)
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"speed": speed, "clock": clock, "peak": peak, "above": self.most - self.before}


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def rows_of(vocabulary: int, length: int) -> Callable[[int, int], Any]:
    import torch

    def rows(start: int, count: int) -> Any:
        draw = torch.Generator().manual_seed(start)
        ids = torch.randint(vocabulary, (count, length), generator=draw)
        return ids, ids.clone()

    return rows


def ours(arguments: argparse.Namespace, distilled: bool) -> dict[str, float]:
    from graphprune.frontend.source import capture
    from graphprune.ir.contract import vocabulary_size
    from graphprune.training.options import TrainOptions
    from graphprune.training.train import train

    student = capture(arguments.student)
    teacher = capture(arguments.teacher, stored=arguments.in_file) if distilled else None

    class Rows:
        length = arguments.length
        rows = staticmethod(rows_of(vocabulary_size(student) or 1, arguments.length))

    options = TrainOptions(
        steps=arguments.steps + 1,
        rows=arguments.rows,
        distill=1.0 if distilled else 0.0,
        divergence=100,
        device="cpu",
        **chosen(arguments.way),
    )
    watch = Watch()
    train(student, options, Rows(), teacher=teacher, report=watch.step)
    return watch.told(arguments.rows * arguments.length)


def chosen(way: str) -> dict[str, Any]:
    """The options of training that a way names."""
    pairs = (part.strip().partition("=") for part in way.split(",") if "=" in part)
    return {name: value == "true" or value for name, _, value in pairs}


def theirs(arguments: argparse.Namespace, distilled: bool) -> dict[str, float]:
    import torch
    from torch.nn import functional
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    student = AutoModelForCausalLM.from_pretrained(arguments.student)
    teacher = AutoModelForCausalLM.from_pretrained(arguments.teacher).eval() if distilled else None
    rows = rows_of(student.config.vocab_size, arguments.length)
    count = arguments.rows * (arguments.steps + 1)
    texts = [{"input_ids": row, "labels": row} for number in range(count) for row in rows(number, 1)[0]]
    watch = Watch()

    class Steps(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.step()

    class Distilling(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **rest: Any) -> Any:
            if teacher is None:
                return super().compute_loss(model, inputs, return_outputs, **rest)
            with torch.no_grad():
                expected = teacher(input_ids=inputs["input_ids"]).logits[:, :-1] / 2
            found = model(input_ids=inputs["input_ids"]).logits[:, :-1] / 2
            divergence = functional.kl_div(
                found.log_softmax(-1).flatten(0, 1),
                expected.log_softmax(-1).flatten(0, 1),
                reduction="batchmean",
                log_target=True,
            )
            return 4 * divergence

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            per_device_train_batch_size=arguments.rows,
            max_steps=arguments.steps + 1,
            learning_rate=2e-5,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        Distilling(student, settings, train_dataset=texts, callbacks=[Steps()]).train()
    return watch.told(arguments.rows * arguments.length)


if __name__ == "__main__":
    main()
