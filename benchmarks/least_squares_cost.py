"""What compressing with least squares costs, stage by stage: processor seconds, peak memory, and the perplexity left.

    python benchmarks/least_squares_cost.py MODEL --calibration TEXT --held TEXT [--target 80%] [--seed 0]
        [--method adapt-pruner-ls] [--prune 'least-squares{consumers=cut}'] [--samples 256] [--length 64]

Options are chosen by the last tenth of the calibration text (the default of --held), which is then not calibrated on.
With --held the whole of TEXT calibrates and the first 8,192 tokens of the held text are reported, windows of 512.
"""

import argparse
import dataclasses
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import graphprune
from graphprune.data.calibration import prepare_text
from graphprune.data.tokens import encode
from graphprune.pipeline.recipes import read_recipe
from graphprune.running.perplexity import perplexity
from graphprune.spec import parse_spec

PAGE = resource.getpagesize()
_PAUSE = 0.02  # seconds between two looks at the memory


def resident() -> float:
    """The memory held now, in GB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e9


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Print what the block costs."""
    most, done = [resident()], threading.Event()

    def look() -> None:
        while not done.wait(_PAUSE):
            most[0] = max(most[0], resident())

    watch, wall, before = threading.Thread(target=look), time.perf_counter(), time.process_time()
    watch.start()
    try:
        yield
    finally:
        done.set()
        watch.join()
        spent, passed = time.process_time() - before, time.perf_counter() - wall
        print(f"{name}: {spent:.1f} s of processor, {passed:.1f} s, peak {most[0]:.2f} GB", flush=True)


def staged(owner: type, method: str) -> None:
    """Print what each call of a method costs."""
    inner: Callable[..., Any] = getattr(owner, method)

    def outer(*args: Any, **kwargs: Any) -> Any:
        with stage(f"  {owner.__name__}.{method}"):
            return inner(*args, **kwargs)

    setattr(owner, method, outer)


def split(path: Path, folder: Path) -> tuple[Path, str]:
    """A file of the first nine tenths of a text, and the last tenth."""
    data = path.read_bytes()
    place = len(data) * 9 // 10
    first = folder / f"{path.stem}-nine-tenths.txt"
    first.write_bytes(data[:place])
    return first, data[place:].decode("utf-8", "ignore")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--held", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("/tmp"), help="where nine tenths of the text are written")
    parser.add_argument("--method", default="adapt-pruner-ls")
    parser.add_argument("--target", default="80%")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--length", type=int)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--importance")
    parser.add_argument("--allocation")
    parser.add_argument("--compensation")
    given = parser.parse_args()
    recipe = read_recipe(given.method)
    parts = {key: vars(given)[key] for key in ("importance", "allocation", "compensation") if vars(given)[key]}
    recipe = recipe.model_copy(update={"prune": dataclasses.replace(recipe.prune, **parts)})
    calibration, held = (
        (given.calibration, given.held.read_text()) if given.held else split(given.calibration, given.folder)
    )
    samples, length = given.samples or recipe.calibration.samples, given.length or recipe.calibration.length
    with stage("capture and text"):
        source = graphprune.capture(given.model, dtype=torch.float32)
        text = prepare_text(source, str(calibration), samples, length, given.seed)
    for kind, spec, method in (
        ("importance", recipe.prune.importance, "score"),
        ("allocation", recipe.prune.allocation, "keep"),
        ("compensation", recipe.prune.compensation, "compensate"),
    ):
        if spec:
            staged(type(parse_spec(kind, spec)), method)
    with stage("whole"):
        small = graphprune.run_recipe(
            source, recipe, given.target, graphprune.Context(calibration=text.batches, seed=given.seed)
        )
    assert text.tokenizer is not None
    tokens = encode(text.tokenizer, [held])[:8192]
    found = perplexity(small, tokens, given.window, 4, stride=given.window)
    options = (
        f"{given.target} seed {given.seed} {samples} x {length} {recipe.prune.importance} {recipe.prune.compensation}"
    )
    print(f"{options}: perplexity {found.perplexity:.3f}, {found.nats_per_token:.4f} nats, {small.parameter_count():,}")


if __name__ == "__main__":
    main()
