"""The schema of report.json, version 1. `python -m graphprune.reporting.schema` prints it as JSON Schema."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from graphprune.reporting.verdict import Standing
from graphprune.running.comparison import State

Count = Annotated[int, Field(ge=0)]
Number = Annotated[int | float, WithJsonSchema({"type": "number"})]  # written as it is: 3 does not become 3.0


class Part(BaseModel):
    """A part of the report: these fields and no others."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Source(Part):
    """The model that was compiled: its name or path, its revision on a hub, and the hashes of its files."""

    id: str
    revision: str | None
    files_sha256: dict[str, str]


class Target(Part):
    """What was asked for, such as params 60%, and the tables that were measured on this machine to find it."""

    kind: Literal["params", "size", "kv-bytes", "speed", "vocabulary"]
    value: str
    measured: dict[str, Any]


class Achieved(Part):
    """The size of the result."""

    parameters: Count


class Stage(Part):
    """One training: its tokens, its last step and loss, and the first and last held-out loss, in nats a token."""

    stage: Count
    step: Count
    tokens: Count
    loss: Number | None
    held_out_first: Number | None
    held_out_last: Number | None


class Text(Part):
    """The text that was looked at, and what was only measured on."""

    source: str
    held_out: str


class Vocabulary(Part):
    """Tokens before and after, the tokens of the text that were counted, the share of these that was kept, and the
    tokenizer files left out."""

    before: Count
    after: Count
    counted: Count
    covered: Number | None
    left_out: list[str]


class Measure(Part):
    """A quantity before and after; null where it was not measured. What was timed is the median of `runs` runs, the
    middle half of which is `spread` of it wide; `note` says how, or why there is no number."""

    name: str
    before: Number | None
    after: Number | None
    unit: Literal["", "bytes"]
    runs: Count | None = None
    spread: Number | None = None
    note: str = ""


class Width(Part):
    """The units of a group before and after."""

    group: str
    kind: str
    block: str | None
    before: Count
    after: Count


class Check(Part):
    """A comparison of an artefact with the graph: the largest difference as a share of `scale`, and its limit.

    `state` is `care` for what passed and is usable with care, as `advice` says; null in reports of before.
    """

    artefact: str
    name: str
    difference: Number
    tolerance: Number
    scale: Number
    passed: bool
    detail: str
    state: State | None = None
    advice: str = ""


class Verdict(Part):
    """How much of the source's quality is left, in a word and a sentence, from bits a byte on the held-out text: of the
    source, of the result, of trigrams of the calibration text, and of a guess among all tokens."""

    standing: Standing
    reason: str
    before: Number | None
    after: Number | None
    trigrams: Number | None
    guess: Number | None


class Answer(Part):
    """A question to a language model that took part in a search, and its answer."""

    question: str
    answer: str


class Sample(Part):
    """How a model goes on from a prompt."""

    name: str
    text: str


class Step(Part):
    """A pass that was run: its spec, its seed, and parameters before and after."""

    spec: str
    seed: int | None
    parameters_before: Count
    parameters_after: Count


class File(Part):
    """A file of the artefact."""

    path: str
    bytes: Count
    sha256: str


class Report(Part):
    """Everything about a compilation. `method` is the recipe with all its fields, `importance` scores by group.

    `seconds` are all from the start of the command to the end, with those of parts of it that were interrupted.
    """

    schema_version: Literal[1]
    source: Source
    target: Target
    achieved: Achieved
    method: dict[str, Any]
    training: list[Stage]
    text: Text | None
    vocabulary: Vocabulary | None
    statistics: Literal["survivors", "exact"]
    verdict: Verdict | None = None
    measures: list[Measure]
    widths: list[Width]
    dropped: list[str]
    importance: dict[str, list[Number]]
    parity: list[Check]
    notes: list[str]
    samples: list[Sample]
    asked: list[Answer] = []
    history: list[Step]
    versions: dict[str, str]
    seconds: Number
    seed: int
    files: list[File]


def json_schema() -> str:
    return json.dumps(Report.model_json_schema(), indent=1) + "\n"


if __name__ == "__main__":
    print(json_schema(), end="")
