"""Kills compilations at random moments and looks at what is left.

    python benchmarks/kills.py [--kills 100] [--seed 0] [--only WAY ...] [--json FILE]

A way is what is killed: a plain compilation, one that trains, one that replaces an OUT, one whose weights stay in their
file. SIGTERM and SIGKILL take turns.
After each kill it is counted what must not be: a half OUT; an OUT, model or neighbour that was lost or changed; a
process that goes on; and after SIGTERM what a run leaves but should not. At the end of each way the same command runs
through, and must give the weights of a run that was never killed. The model is made here, and is tiny.
Prints one line a kill and a table.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORDS = ("the", "cat", "sat", "on", "mat", "and", "dog", "ran", "to", "red", "barn", "birds", "sang", "low", "songs")
SOME = ("--target-params", "80%", "--samples", "4", "--length", "16")
TRAINING = ("--method", "adapt-accel", "--train-tokens", "4k", "--stages", "2")
WAYS = {
    "plain": ("--importance", "magnitude"),
    "training": TRAINING,
    "overwrite": ("--overwrite", "--importance", "magnitude"),
    "in-file": ("--memory", "100MB", "--importance", "magnitude"),  # so little that weights stay
}
SIGNALS = (signal.SIGTERM, signal.SIGKILL)
GRACE = 1.0  # seconds in which all that a run had started must be gone


@dataclass
class Counts:
    """What was seen of one way; all but the first three must be 0."""

    kills: int = 0
    through: int = 0
    seconds: float = 0.0
    half: int = 0
    lost: int = 0
    orphans: int = 0
    untidy: int = 0
    unresumed: int = 0

    @property
    def faults(self) -> int:
        return self.half + self.lost + self.orphans + self.untidy + self.unresumed


def write_model(folder: Path) -> Path:
    """A random Llama of two layers, a tokenizer of its own words, and a text."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: index for index, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": len(words), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    model: Any = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**sizes, **heads, bos_token_id=1, eos_token_id=2)
    )
    model.save_pretrained(folder)
    chance = random.Random(0)
    (folder / "text.txt").write_text(" ".join(chance.choice(WORDS) for _ in range(6000)))
    return folder


@dataclass(frozen=True)
class Subject:
    """One way in a folder of its own: the model, OUT, and neighbours that no run may touch."""

    folder: Path
    way: str
    backends: str = "huggingface,onnx"

    @property
    def out(self) -> Path:
        return self.folder / "small"

    @property
    def neighbours(self) -> tuple[Path, ...]:
        return self.folder / "model", self.folder / "small-1234", self.folder / ".graphprune-small-1234"

    def prepare(self) -> None:
        self.folder.mkdir(exist_ok=True)
        write_model(self.folder / "model")
        for path in self.neighbours[1:]:
            (path / "new").mkdir(parents=True)
            (path / "new" / "precious").write_text("precious")

    def command(self, out: Path) -> list[str]:
        model = self.folder / "model"
        options = [*SOME, *WAYS[self.way], "--backends", self.backends, "--data", str(model / "text.txt")]
        program = "from graphprune.cli.main import main; main()"
        return [sys.executable, "-P", "-c", program, "compile", str(model), "-o", str(out), *options]

    def left(self) -> list[str]:
        """What lies beside OUT and the neighbours, but the state of a run that goes on."""
        known = {path.name for path in (*self.neighbours, self.out)} | {f".{self.out.name}.graphprune-run", "whole"}
        return sorted(path.name for path in self.folder.iterdir() if path.name not in known)


def digest(folder: Path) -> str:
    """A hash of every file in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    parts = [f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def is_whole(out: Path) -> bool:
    """Whether OUT has each file that its report lists, as it lists it."""
    report = out / "graphprune" / "report.json"
    if not report.is_file():
        return False
    files = json.loads(report.read_text())["files"]
    return all(hashlib.sha256((out / f["path"]).read_bytes()).hexdigest() == f["sha256"] for f in files)


def marked(mark: str) -> list[int]:
    """The processes that a run started, by a mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            zombie = (path / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            if not zombie and mark.encode() in (path / "environ").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def run(command: Sequence[str], patience: float | None, number: int) -> tuple[int, str, list[int]]:
    """Run a command, send it a signal after some seconds; its exit code, its last line, and who goes on after it."""
    mark = uuid.uuid4().hex
    environment = {**os.environ, "GRAPHPRUNE_KILLS": mark, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=pipe, text=True, env=environment) as process:
        try:
            _, said = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            process.wait()
            said = process.stderr.read() if process.stderr is not None and not marked(mark) else ""
    until = time.monotonic() + GRACE
    while (others := marked(mark)) and time.monotonic() < until:
        time.sleep(0.05)
    for other in others:
        os.kill(other, signal.SIGKILL)
    return process.returncode, (said.strip().splitlines() or [""])[-1], others


def try_way(subject: Subject, kills: int, chance: random.Random) -> Iterator[Counts]:
    """Kill the run so often; the counts so far after each, and at last after a run that is let through."""
    subject.prepare()
    counts, whole = Counts(), subject.folder / "whole"
    began = time.monotonic()
    code, said, _ = run(subject.command(whole), None, 0)
    assert code == 0, said
    long, wanted = time.monotonic() - began, digest_of_weights(whole)
    if subject.way == "overwrite":
        code, said, _ = run(subject.command(subject.out), None, 0)
        assert code == 0, said
    kept = [digest(path) for path in subject.neighbours]
    for index in range(kills):
        one_kill(subject, counts, SIGNALS[index % 2], chance.uniform(0.1, 1.05 * long), kept)
        counts.seconds = round(time.monotonic() - began, 1)
        yield counts
    code, said, _ = run(subject.command(subject.out), None, 0)
    if subject.out.exists() and code == 2 and "exists" in said:  # the last one got through
        code = 0
    counts.unresumed += int(code != 0 or not is_whole(subject.out) or digest_of_weights(subject.out) != wanted)
    counts.untidy += len(subject.left())
    yield counts


def one_kill(subject: Subject, counts: Counts, number: int, patience: float, kept: list[str]) -> None:
    """One kill, and what is left after it."""
    old, before = digest(subject.out) if subject.out.exists() else "", subject.left()
    code, said, others = run(subject.command(subject.out), patience, number)
    counts.kills += code != 0
    counts.through += code == 0
    counts.orphans += len(others)
    counts.lost += [digest(path) for path in subject.neighbours] != kept
    if subject.out.exists():
        counts.half += not is_whole(subject.out)
    if subject.way == "overwrite":  # nothing but one of the two, and never neither
        counts.lost += not subject.out.exists()
        stopped = code != 0 and number == signal.SIGTERM and "was complete before" not in said
        counts.lost += stopped and digest(subject.out) != old
    if number == signal.SIGTERM and code not in (0, -signal.SIGTERM):  # below 0: it had not begun to listen
        tidy = code == 128 + signal.SIGTERM and said.startswith("error: interrupted")
        new = sorted(set(subject.left()) - set(before))  # what a kill before left stays until a run comes so far
        counts.untidy += not tidy or bool(new)
        if not tidy or new:
            print(f"after {patience:.2f} s: code {code}, {said!r}, left {new}", file=sys.stderr)
    if subject.way != "overwrite" and subject.out.exists():
        subject.out.rename(subject.folder / f"done-{uuid.uuid4().hex}")
        remove(subject.folder)


def remove(folder: Path) -> None:
    import shutil

    for path in folder.glob("done-*"):
        shutil.rmtree(path)


def digest_of_weights(out: Path) -> str:
    files = sorted(out.glob("*.safetensors"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def shares(kills: int, ways: Sequence[str]) -> list[int]:
    return [kills // len(ways) + (index < kills % len(ways)) for index in range(len(ways))]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found: dict[str, Counts] = {}
    with tempfile.TemporaryDirectory(prefix="graphprune-kills-") as folder:
        for way, kills in zip(asked.only, shares(asked.kills, asked.only), strict=True):
            subject = Subject(Path(folder) / way, way)
            for counts in try_way(subject, kills, random.Random(f"{asked.seed} {way}")):
                found[way] = dataclasses.replace(counts)
                print(way, dataclasses.asdict(counts), file=sys.stderr, flush=True)
    print(table(found))
    if asked.json:
        asked.json.write_text(json.dumps({name: dataclasses.asdict(c) for name, c in found.items()}, indent=1) + "\n")
    return int(any(counts.faults for counts in found.values()))


def table(found: dict[str, Counts]) -> str:
    names = [field.name for field in dataclasses.fields(Counts)]
    rows = [[name, *(str(getattr(counts, each)) for each in names)] for name, counts in found.items()]
    return "\n".join("| " + " | ".join(row) + " |" for row in [["way", *names], ["---"] * (len(names) + 1), *rows])


if __name__ == "__main__":
    sys.exit(main())
