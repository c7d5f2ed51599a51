"""Resolution: which backends a run for a runtime has, and how a wrong wish is told."""

from pathlib import Path

import pytest

from graphprune.budget.quantities import Parameters
from graphprune.budget.targets import Target
from graphprune.errors import UsageError
from graphprune.pipeline.options import WRITTEN, CompileOptions
from graphprune.pipeline.recipes import read_recipe
from graphprune.pipeline.resolution import backends_for, resolve_recipe
from graphprune.pipeline.stages import expand


def options(**changes: object) -> CompileOptions:
    return CompileOptions("demo", "60%", dry_run=True, **changes)  # type: ignore[arg-type]


def test_a_runtime_is_set_in_the_recipe_and_says_what_is_written() -> None:
    recipe = resolve_recipe(options(runtime="sglang"))
    assert recipe.prune.runtime == "sglang"
    assert recipe.prune.wanted is not None
    assert backends_for(recipe, WRITTEN) == ("huggingface", "decilm{multiple=256}")
    assert backends_for(recipe, ("ort",)) == ("ort", "decilm{multiple=256}"), "its form stands beside"
    given = ("onnx", "decilm{multiple=256,folder=x}")
    assert backends_for(recipe, given) == given
    with pytest.raises(UsageError, match=r"--for sglang writes decilm\{multiple=256\}, not decilm"):
        backends_for(recipe, ("decilm",))
    plain = resolve_recipe(options())
    assert (plain.prune.runtime, plain.prune.wanted) == (None, None)
    assert backends_for(plain, ("onnx",)) == ("onnx",)


def test_a_recipe_may_say_it_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nprune: {importance: magnitude, runtime: executorch}\n")
    recipe = read_recipe(str(path))
    assert recipe.prune.equal_layers
    assert not recipe.prune.uniform
    assert resolve_recipe(options(method=str(path), runtime="mlx")).prune.runtime == "mlx", "the option stands above it"
    path.write_text("name: mine\nprune: {importance: magnitude, runtime: tgi}\n")
    with pytest.raises(UsageError, match=r"prune.runtime is 'tgi': input should be 'vllm', 'sglang'"):
        read_recipe(str(path))


def test_wishes_that_do_not_go_together_are_told() -> None:
    with pytest.raises(UsageError, match="--for does not know 'vlm'; did you mean vllm"):
        options(runtime="vlm")
    with pytest.raises(UsageError, match=r"--backends decilm: the method slicegpt adds operators"):
        resolve_recipe(options(method="slicegpt", runtime="vllm"))
    with pytest.raises(UsageError, match=r"--for executorch: the method slicegpt adds operators"):
        resolve_recipe(options(method="slicegpt", runtime="executorch"))
    sheared = resolve_recipe(options(method="sheared", runtime="vllm", train_tokens="10k"))
    with pytest.raises(UsageError, match="runtime has no place in shear"):
        expand(sheared, Target(Parameters(), 6, 10))
