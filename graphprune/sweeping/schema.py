"""The schemas of a point and of sweep.json, version 1."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    """A part of the data: these fields and no others."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Quality(Part):
    """How well a model predicts the held-out text; perplexity is of a token, null where it is no finite number."""

    bits_per_byte: float
    perplexity: float | None
    tokens: Count


class Point(Part):
    """One size: what was asked for and what came of it.

    `weight_bytes` are those of all weights in the source's type, `cache_bytes` those that a token takes in the cache.
    Seconds are of the cut and of what follows it, by the clock and of all processors. The plan is beside it.
    """

    target: str
    parameters: Count
    weight_bytes: Count
    cache_bytes: Count
    quality: Quality
    seconds: float
    processor_seconds: float
    notes: list[str]


class Curve(Part):
    """All points, the largest first, and the model itself."""

    schema_version: int
    command: str
    model: str
    method: str
    recipe: str
    date: str
    versions: dict[str, str]
    data: str
    held_out: str
    text_bytes: Count
    dense: Point
    points: list[Point]
