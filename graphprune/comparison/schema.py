"""The schemas of a cell and of compare.json, version 1. `python -m graphprune.comparison.schema` prints the latter."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

Count = Annotated[int, Field(ge=0)]
Number = Annotated[int | float, WithJsonSchema({"type": "number"})]
State = Literal["ok", "below", "above", "failed"]


class Part(BaseModel):
    """A part of the report: these fields and no others."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TaskResult(Part):
    """One metric of a task or group over `examples` questions; `guess` is what chance gets, null where unknown."""

    task: str
    metric: str
    value: Number
    standard_error: Number | None
    examples: Count
    guess: Number | None
    group: bool


class Cost(Part):
    """Seconds by the clock, and of all processors."""

    wall: Number
    processor: Number


class Measured(Part):
    """What a cell came to. `wanted` are the parameters asked for, `parameters` all that the model really has.

    `nats_per_token`, `perplexity` and `bits_per_byte` are of the held-out text; perplexity is null where it is no
    finite number. `guess_bits` are those of a guess among all tokens. Peaks are of the process, in bytes: until the
    model was made, and in all; `device_peak` is of tensors on the GPU until the model was made, null where it is
    not known. `cut` and `training` are the passes' own; `seconds` all from the start of the process.
    """

    parameters: Count
    wanted: Count
    nats_per_token: Number
    perplexity: Number | None
    bits_per_byte: Number
    guess_bits: Number
    guess_nats: Number
    predicted: Count
    text_bytes: Count
    window: Count
    tasks: list[TaskResult]
    cut: Cost
    training: Cost
    seconds: Number
    peak_made: Count
    peak: Count
    device_peak: Count | None = None  # cells from before have none
    threads: Count
    device: str
    notes: list[str]


class Cell(Part):
    """One model of a comparison: which it is, and what it came to, or the line that says why it failed."""

    schema_version: Literal[1]
    key: str
    method: str
    target: str
    seed: Count
    tokens: Count
    recipe: dict[str, Any]
    code: str
    version: str
    measured: Measured | None
    error: str | None


class Spread(Part):
    """The mean over seeds, the standard deviation (null for one), the least and the most."""

    mean: Number
    deviation: Number | None
    least: Number
    most: Number


class Row(Part):
    """A method at one target and one number of tokens, over its seeds.

    `state` is `above` where a model has more parameters than the target: it is not compared. `below` is more than a
    hundredth under it: it is, and said. `best` has the least bits per byte of those compared, on all seeds.
    """

    method: str
    target: str
    tokens: Count
    state: State
    note: str
    seeds: Count
    parameters: Spread | None
    bits_per_byte: Spread | None
    perplexity: Number | None
    tasks: dict[str, Number]
    accuracy: Number | None
    cut_seconds: Cost | None
    training_seconds: Cost | None
    peak: Count | None
    device_peak: Count | None = None
    best: bool


class Text(Part):
    """How every model is measured, in words and numbers."""

    data: str
    search: str
    held_out: str
    samples: Count
    length: Count
    window: Count
    stride: Count
    bos: bool
    text_bytes: Count | None
    text_tokens: Count | None
    tasks: list[str]
    task_limit: Count | None


class MethodPart(Part):
    """A row's name, and its recipe with all fields where nothing is trained, and where it is."""

    name: str
    recipes: list[dict[str, Any]]


class Comparison(Part):
    """Everything about a comparison: what was asked, how it was measured, every cell, and the rows made of them."""

    schema_version: Literal[1]
    command: str
    model: str
    parameters: Count
    date: str
    versions: dict[str, str]
    machine: str
    methods: list[MethodPart]
    targets: list[str]
    train_tokens: list[Count]
    seeds: Count
    text: Text
    dense: Measured
    cells: list[Cell]
    rows: list[Row]
    notes: list[str]


def json_schema() -> str:
    return json.dumps(Comparison.model_json_schema(), indent=1) + "\n"


if __name__ == "__main__":
    print(json_schema(), end="")
