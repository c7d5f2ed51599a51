"""What every test shares: the golden files and a single-threaded torch."""

import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support.versions import other_versions

# The suite runs in as many processes as there are cores; a second layer of threads only slows them down.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

# The same examples on every run, and no limit on their time: a loaded machine fails no test.
hypothesis.settings.register_profile("graphprune", derandomize=True, deadline=None)
hypothesis.settings.load_profile("graphprune")

GOLDEN_FOLDER = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files from what is printed now")
    parser.addoption("--order", metavar="N|reversed", help="another order of files and of tests in them, drawn from N")
    parser.addoption("--really", action="store_true", help="let the commands that the docs show do their work")
    parser.addoption(
        "--stand-in", action="store_true", help="run the tests of a GPU on its stand-in (tests/support/stand_in.py)"
    )
    parser.addoption(
        "--other-sums", action="store_true", help="add up products in another order (tests/support/other_sums.py)"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put files, and tests within a file, into another order; files stay whole, since they share what is costly."""
    order = config.getoption("--order")
    if config.getoption("--other-sums"):
        for item in (item for item in items if item.get_closest_marker("same_bits")):
            item.add_marker(pytest.mark.skip(reason="compares bits with a process that adds as it always does"))
    if order == "reversed":
        items.reverse()
    elif order is not None:
        draw, files = random.Random(int(order)), dict[Path, list[pytest.Item]]()
        for item in items:
            files.setdefault(item.path, []).append(item)
        groups = list(files.values())
        for group in groups:
            draw.shuffle(group)
        draw.shuffle(groups)
        items[:] = [item for group in groups for item in group]


@pytest.fixture(scope="session", autouse=True)
def arithmetic(request: pytest.FixtureRequest) -> Iterator[None]:
    """The processor's own sums, or others where that is asked for."""
    if not request.config.getoption("--other-sums"):
        yield
        return
    from tests.support.other_sums import other_sums

    library = other_sums()
    yield
    del library


@pytest.fixture(scope="session")
def forked_checks() -> Iterator[Callable[..., Any]]:
    from tests.support.fork_server import forking

    with forking() as fresh:
        yield fresh


@pytest.fixture(autouse=True, scope="module")
def checks_are_forked(request: pytest.FixtureRequest, forked_checks: Callable[..., Any]) -> Iterator[None]:
    """Check in forks of one process, which saves its imports hundreds of times, but where checks begin anew by name."""
    if getattr(request.module, "CHECKS_BEGIN_ANEW", False):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graphprune.artefacts.parity.fresh_process", forked_checks)
        yield


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The GPU, or its stand-in where that is asked for; without either the test is skipped."""
    if request.config.getoption("--stand-in"):
        from tests.support.stand_in import present

        with present() as there:
            yield there
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a GPU; `pytest -m gpu --stand-in` runs what a stand-in can show")
    yield torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Compare a text with the file named after the test; `--update-golden` writes it instead."""
    name = re.sub(r"[^\w.-]+", "_", request.node.name).strip("_")
    path = GOLDEN_FOLDER / request.node.path.stem / f"{name}.txt"

    def check(text: str) -> None:
        text = text.rstrip("\n") + "\n"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.exists():
            pytest.fail(f"no golden file {path.name}; `make golden` writes it, then read it before you commit it")
        elif text != path.read_text(encoding="utf-8") and (others := other_versions()):
            pytest.skip(f"the golden files were made with {others}")  # what transformers computes is another graph
        else:
            assert text == path.read_text(encoding="utf-8")

    return check
