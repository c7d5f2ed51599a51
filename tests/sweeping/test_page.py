"""The page and the advice of a sweep, from made-up curves: what is said, and that names stay text."""

import pytest

from graphprune.sweeping.advice import advise
from graphprune.sweeping.page import curve_markdown, curve_page
from graphprune.sweeping.schema import Curve, Point, Quality


def point(target: str, parameters: int, bits: float, **changes: object) -> Point:
    plain: dict[str, object] = {
        "target": target,
        "parameters": parameters,
        "weight_bytes": 2 * parameters,
        "cache_bytes": parameters // 100,
        "quality": Quality(bits_per_byte=bits, perplexity=2**bits, tokens=100),
        "seconds": 3.0,
        "processor_seconds": 5.0,
        "notes": [],
    }
    return Point.model_validate({**plain, **changes})


def curve(*points: Point, **changes: object) -> Curve:
    plain: dict[str, object] = {
        "schema_version": 1,
        "command": "graphprune sweep model -o OUT",
        "model": "model",
        "method": "evolve",
        "recipe": "{}",
        "date": "2026-01-01",
        "versions": {"graphprune": "0"},
        "data": "a.txt",
        "held_out": "b.txt",
        "text_bytes": 1000,
        "dense": point("source", 1000, 1.0),
        "points": list(points),
    }
    return Curve.model_validate({**plain, **changes})


def test_advice_names_the_smallest_that_keeps_the_quality_and_the_steepest_fall() -> None:
    said = advise(
        curve(point("90%", 900, 1.02), point("80%", 800, 1.04), point("70%", 700, 1.12), point("60%", 600, 1.5))
    )
    assert len(said) == 3
    assert said[0].startswith("80% (800 parameters) is the smallest that keeps the quality: 4.0% more")
    assert said[1].startswith("70% (700 parameters) takes 12.0% more")
    assert "between 70% (700 parameters) and 60% (600 parameters)" in said[2]


def test_a_size_that_is_better_by_chance_after_a_bad_one_is_not_advised() -> None:
    said = advise(curve(point("90%", 900, 1.2), point("80%", 800, 1.03)))
    assert said[0].startswith("No size here keeps the quality of the model: even 90%")


def test_one_size_has_no_steepest_fall_and_none_no_advice() -> None:
    assert len(advise(curve(point("90%", 900, 1.02)))) == 1
    assert advise(curve()) == ()


@pytest.mark.parametrize("cache", [True, False])
def test_the_page_is_one_file_and_has_every_size(cache: bool) -> None:
    points = (point("90%", 900, 1.02, notes=["a note"]), point("70%", 700, 1.12))
    changed = [each if cache else each.model_copy(update={"cache_bytes": 0}) for each in points]
    dense = point("source", 1000, 1.0, **({} if cache else {"cache_bytes": 0}))
    made = curve(*changed, dense=dense)
    page, text = curve_page(made), curve_markdown(made)
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert ("cache a token</h3>" in page.replace("bytes of cache a token", "cache a token")) is cache
    assert "| 70% | 700 |" in text
    assert "90%: a note" in text
    assert "+12.0%" in page


def test_names_are_text() -> None:
    page = curve_page(curve(point("90%", 900, 1.02), model="<b>x</b>", method="<i>m</i>"))
    assert "<b>x" not in page
    assert "<i>m" not in page
