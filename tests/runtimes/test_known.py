"""The runtimes that `--for` knows: each names backends that exist, and says why and where from what it limits."""

import pytest

from graphprune import registry
from graphprune.analysis.groups import KINDS
from graphprune.budget.installed import load_backend
from graphprune.pipeline.options import CompileOptions, option_name
from graphprune.runtimes.known import NAMES, RUNTIMES, find_runtime
from graphprune.runtimes.runtime import Limit, Runtime, Source
from graphprune.spec import split_spec


def test_every_name_has_its_runtime() -> None:
    assert tuple(runtime.name for runtime in RUNTIMES) == NAMES
    assert option_name("runtime") == "--for"
    assert CompileOptions("m", "60%", dry_run=True).runtime is None


@pytest.mark.parametrize("name", NAMES)
def test_what_is_said_of_a_runtime_holds_here(name: str) -> None:
    runtime = find_runtime(name)
    assert {split_spec(spec)[0] for spec in runtime.backends} <= set(registry.names("backends"))
    place = load_backend(runtime.backends[-1]).place
    assert runtime.files.startswith(place or "./"), "the last backend writes its files"
    assert all(text and text.isascii() for text in (runtime.free, runtime.opened, runtime.checked))
    for limit in runtime.limits:
        assert set(limit.kinds) <= set(KINDS)
        assert limit.why
        assert limit.source.place
        assert limit.words


def test_rules_are_asked_for_by_kind() -> None:
    source = Source("somewhere")
    made = Runtime("x", "", "", (), "", "", "", (Limit("multiple", ("mlp",), "why", source, 64),))
    assert made.kinds_under("multiple") == ("mlp",)
    assert made.limit_of("multiple", "attention") is None
    found = made.limit_of("multiple", "mlp")
    assert found is not None
    assert found.words == "a multiple of 64"
    assert not made.stock
    assert find_runtime("executorch").stock
