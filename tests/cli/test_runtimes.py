"""`inspect --for`: every limit with its reason and source, what is held, and a source that is refused."""

import pytest

from graphprune.analysis.analyse import analyze
from graphprune.cli.runtimes import describe_runtime, print_runtime, refusal
from graphprune.runtimes.known import NAMES, find_runtime
from tests.support.families import graph
from tests.support.tiny_llama import tiny_graph

pytestmark = pytest.mark.xdist_group("tiny_llama")


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_is_known_is_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runtime, source = find_runtime(name), tiny_graph()
    said = describe_runtime(source, analyze(source), runtime)
    print_runtime(said)
    printed = " ".join(capsys.readouterr().out.split())
    for limit in runtime.limits:
        assert " ".join(limit.why.split()) in printed
        assert limit.source.place in printed
        assert limit.words in printed
    assert runtime.opened in printed
    assert ("nothing is limited" in printed) == (not runtime.limits)
    assert said["held"] == {} or "Stays whole" in printed


def test_a_source_that_is_not_taken_says_why() -> None:
    assert refusal(tiny_graph(), find_runtime("vllm")) is None
    found = refusal(graph("gpt2"), find_runtime("mlx"))
    assert found is not None
    assert "GPT2LMHeadModel is none of them" in found
