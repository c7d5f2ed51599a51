"""Recipes: what is shipped, what a user may write and override, how a wrong one is told, and the passes it becomes."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from graphprune import registry
from graphprune.amounts import parse_count
from graphprune.budget.quantities import Parameters
from graphprune.budget.targets import Target
from graphprune.cli import main
from graphprune.data.readers import read_plain
from graphprune.data.splits import choose_bytes, choose_rows
from graphprune.errors import RegistryError, UsageError
from graphprune.pipeline.options import CompileOptions
from graphprune.pipeline.recipes import Change, Recipe, parse_settings, read_recipe, read_yaml, shipped
from graphprune.pipeline.resolution import resolve_recipe
from graphprune.pipeline.stages import expand, needs_text
from graphprune.pruning.options import Pruning
from graphprune.spec import option_types

Capture = pytest.CaptureFixture[str]
FORWARD_ONLY = {"flap", "wanda-sp", "magnitude-sp"}
LLM_PRUNER = {"llm-pruner", "llm-pruner-channel", "llm-pruner-layer", "llm-pruner-lora"}
SPARSE = {"magnitude-sparse", "wanda-sparse", "sparsegpt", "fista", "sparse"}
DEPTH = {"shortgpt", "angular", "ablation-depth"}
SHIPPED = {
    "adapt-accel",
    "adapt-accel-kd",
    "adapt-pruner",
    "adapt-pruner-ls",
    "taylor",
    *FORWARD_ONLY,
    "ast",
    "bypass",
    "efficientllm",
    "evolve",
    "minitron",
    "mope-clip",
    "prompt",
    "saap",
    "saap-tuned",
    "self-pruner",
    "sheared",
    "slicegpt",
    "upcycle",
}
SHIPPED |= LLM_PRUNER | DEPTH | SPARSE
ACCEL = """
name: mine
prune: {importance: taylor, allocation: global}
stages: 4
recover: {tokens: 10k, rows: 2, length: 8, lr: 3e-4, moments: reset}
"""


def write(folder: Path, text: str) -> str:
    path = folder / "my.yaml"
    path.write_text(text)
    return str(path)


def test_the_shipped_recipes_are_these() -> None:
    assert set(shipped()) == SHIPPED


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_shipped_recipe_is_valid_and_says_what_it_is(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.name == name
    assert recipe.summary
    assert recipe.source
    trained = ("adapt-accel", "ast", "efficientllm", "minitron", "llm-pruner-lora", "prompt", "saap-tuned", "sheared")
    trained = (*trained, "upcycle")
    assert (recipe.recover is not None) == name.startswith(trained)
    assert expand(recipe, Target(Parameters(), 600, 1000))


def test_every_number_of_a_shipped_recipe_says_where_it_is_from() -> None:
    for name in SHIPPED - {"taylor"}:
        lines = shipped()[name].read_text().splitlines()
        options = [line for line in lines if any(c.isdigit() for c in line.partition(":")[2].partition("#")[0])]
        assert [line for line in options if "#" not in line and not line.startswith("source")] == []


def test_the_resolved_recipe_reads_back_as_the_same(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, ACCEL), parse_settings(["prune.floor=0.1", "recover.clip=0.5"]))
    assert recipe.recover is not None
    assert recipe.recover["lr"] == 3e-4, "which YAML takes for text"
    assert (recipe.prune.floor, recipe.recover["clip"]) == (0.1, 0.5)
    assert read_recipe(write(tmp_path, recipe.to_yaml())) == recipe


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [", "my.yaml, line 1: not YAML"),
        ("name: a\nprune:\n\tsteps: 1", "my.yaml, line 3: not YAML"),
        ("- a list", "is no recipe"),
        ("summary: nameless", "my.yaml: name is missing"),
        ("name: a\nstages_: 3", "my.yaml: stages_ is no field of a recipe; did you mean stages?"),
        ("name: a\nprune: {stepps: 3}", "my.yaml: prune.stepps is no field of a recipe; did you mean steps?"),
        ("name: a\nprune: {steps: two}", "my.yaml: prune.steps is 'two': input should be a valid integer"),
        ("name: a\nprune: {steps: 0}", "my.yaml: prune.steps is 0: input should be greater than or equal to 1"),
        ("name: a\nprune: 3", "my.yaml: prune is 3: input should be"),
        ("name: a\nprune: {kinds: [mpl]}", "my.yaml: prune.kinds does not know 'mpl'; did you mean mlp?"),
        ("name: a\nprune: {kinds: [auto, mlp]}", "my.yaml: prune.kinds: auto stands alone"),
        ("name: a\nprune: {statistics: mean}", "my.yaml: prune.statistics is 'mean': input should be 'survivors' or"),
        ("name: a\nprune: {importance: tailor}", "my.yaml: prune.importance: no graphprune.importance plug-in is"),
        ("name: a\nprune: {importance: 'taylor{ordr=1}'}", "my.yaml: prune.importance: taylor has no option 'ordr'"),
        (
            "name: a\nbefore: [dropblocks]",
            "my.yaml: before: no graphprune.passes plug-in is named 'dropblocks'; did you",
        ),
        ("name: a\ntoken_shares: quadratic", "my.yaml: token_shares is 'quadratic': input should be 'linear', "),
        ("name: a\nrecover: {tokens: many}", "my.yaml: recover is a mapping: 'many' is no number of tokens"),
        (
            "name: a\nrecover: {tokens: 1M, tempreature: 2}",
            "recover.tempreature is no option of recover; did you mean temp",
        ),
        ("name: a\nrecover: {tokens: 1M, lr: fast}", "my.yaml: recover.lr: recover: lr=fast is not float"),
        ("name: a\nrecover: {tokens: 1M, lr: -1}", "my.yaml: recover.lr: "),
        ("name: a\nrecover: {tokens: 1M, steps: 3}", "my.yaml: recover.steps is set for each stage; leave it out"),
    ],
)
def test_a_wrong_recipe_is_one_line_with_file_key_and_remedy(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_recipe(write(tmp_path, text))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--method adapt-acel", "no method is named 'adapt-acel'; did you mean adapt-accel"),
        ("--method zzz", "no method is named 'zzz'; `graphprune list methods` shows all"),
        (
            "--method no/such.yaml",
            "no recipe at no/such.yaml; give the path of a YAML file, or `graphprune list methods`",
        ),
        (
            "--importance tailor",
            "--importance tailor: no graphprune.importance plug-in is named 'tailor'; did you mean",
        ),
        ("--set prune.stepps=3", "--set prune.stepps=3 is no field of a recipe; did you mean steps?"),
        ("--set prune.steps=lots", "--set prune.steps=lots is 'lots': input should be a valid integer"),
        ("--set prune", "--set prune: write key=value, such as --set recover.lr=1e-3"),
        ("--set prune.importance.more=3", "--set prune.importance.more=3: importance is one value and has no fields"),
        ("--set a=[", "--set a=[: '[' is not YAML"),
        ("--train-tokens many", "--train-tokens many: write the number of tokens as 2M"),
        ("--lr 0.1", "the method taylor does not say for how long to train; give --train-tokens"),
        ("--stages 0", "--stages must be 1 or more, not 0"),
    ],
)
def test_a_wrong_option_is_named_as_it_was_typed(line: str, said: str, capsys: Capture) -> None:
    arguments = ["compile", "demo", "--target-params", "60%", "--dry-run", *line.split()]
    assert main.run(arguments) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


def test_options_stand_over_the_recipe_and_settings_below_them() -> None:
    options = CompileOptions(
        "demo",
        "60%",
        dry_run=True,
        prune=("mlp",),
        importance="magnitude",
        steps=3,
        samples=4,
        length=9,
        uniform=True,
        stages=2,
        train_tokens="2M",
        lr=0.5,
        settings=("prune.steps=7", "recover.rows=3", "token_shares=cosine"),
    )
    recipe = resolve_recipe(options)
    assert (recipe.prune.kinds, recipe.prune.importance, recipe.prune.allocation) == (("mlp",), "magnitude", "global")
    assert (recipe.prune.steps, recipe.prune.uniform, recipe.stages) == (3, True, 2)
    assert (recipe.calibration.samples, recipe.calibration.length) == (4, 9)
    assert recipe.recover == {"rows": 3, "tokens": 2_000_000, "lr": 0.5}
    assert recipe.token_shares == "cosine"


def test_without_a_method_it_is_as_it_was() -> None:
    recipe = resolve_recipe(CompileOptions("demo", "60%", dry_run=True))
    assert (recipe.prune.importance, recipe.prune.allocation, recipe.prune.steps) == ("taylor", "global", 1)
    assert (recipe.calibration.samples, recipe.calibration.length) == (128, 128)
    assert (recipe.recover, recipe.prune.compensation, recipe.prune.kinds) == (None, None, ("auto",))


def test_compensation_none_takes_the_recipe_s_away(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nprune: {compensation: what-ever}")
    assert (
        resolve_recipe(CompileOptions("m", "9", dry_run=True, method=path, compensation="none")).prune.compensation
        is None
    )


def test_stages_become_turns_of_prune_and_recover(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, ACCEL + "before: ['drop-blocks{count=1}']\n"))
    first, *turns = expand(recipe, Target(Parameters(), 600, 1003))
    assert first.name == "drop-blocks"
    assert [item.name for item in turns] == ["prune", "recover"] * 4
    cuts, trainings = [vars(item) for item in turns[::2]], [vars(item) for item in turns[1::2]]
    assert [cut["target"] for cut in cuts] == [str(1003 - 403 * i // 4) for i in (1, 2, 3, 4)]
    assert {cut["final"] for cut in cuts} == {"600"}
    tokens = [item["tokens"] for item in trainings]
    assert tokens == [1000, 2000, 3000, 4000]
    assert {item["total_tokens"] for item in trainings} == {10_000}
    assert [item["stage"] for item in trainings] == [1, 2, 3, 4]
    assert {(item["lr"], item["moments"]) for item in trainings} == {(3e-4, "reset")}


@pytest.mark.parametrize("shares", ["linear", "constant", "cosine"])
@pytest.mark.parametrize("stages", [2, 3, 7])
def test_the_tokens_of_all_stages_are_the_tokens_of_the_recipe(stages: int, shares: str, tmp_path: Path) -> None:
    changes = [Change("stages", stages, ""), Change("token_shares", shares, ""), Change("recover.tokens", 1009, "")]
    passes: Any = expand(read_recipe(write(tmp_path, ACCEL), changes), Target(Parameters(), 500, 999))
    assert sum(item.tokens for item in passes if item.name == "recover") == 1009
    assert passes[-2].target == "500"


def test_one_stage_is_prune_then_train(tmp_path: Path) -> None:
    changes = [Change("stages", 1, "")]
    cut, training = expand(read_recipe(write(tmp_path, ACCEL), changes), Target(Parameters(), 600, 1000))
    assert vars(cut)["final"] is None
    assert vars(training)["total_tokens"] is None


def test_text_is_asked_for_only_where_something_looks_at_it() -> None:
    def needs(**parts: Any) -> bool:
        return needs_text(Recipe.model_validate({"name": "a", **parts}))

    plain = {"importance": "magnitude", "allocation": "uniform"}
    assert not needs(prune=plain)
    assert needs(prune={"importance": "taylor"})
    assert needs(prune={**plain, "kinds": ["blocks"]})
    assert needs(prune=plain, recover={"tokens": 5})


@pytest.mark.parametrize(
    ("text", "count"), [("2M", 2_000_000), ("1.5k", 1500), ("1e6", 1_000_000), (7, 7), ("1_000", 1000)]
)
def test_counts_are_read_as_people_write_them(text: Any, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "0", "-5", "1.5", "60%", "lots", True, None])
def test_what_is_no_count_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="no number of tokens"):
        parse_count(text)


def test_list_methods_shows_every_recipe(capsys: Capture) -> None:
    assert main.run(["list", "methods"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in SHIPPED)
    assert main.run(["list", "--json"]) == 0
    assert set(yaml.safe_load(capsys.readouterr().out)) == {"methods", *registry.PLUGIN_KINDS}


def test_a_plug_in_that_a_flag_names_is_a_registry_error() -> None:
    with pytest.raises(RegistryError):
        resolve_recipe(CompileOptions("demo", "60%", dry_run=True, allocation="glbal"))


def test_the_parts_of_a_source_share_nothing_and_are_all_of_it(tmp_path: Path) -> None:
    rows = list(range(103))
    train, held = list(choose_rows(rows, "train")), list(choose_rows(rows, "held-out"))
    assert sorted(train + held) == rows
    assert len(held) == 6
    for size in (2, 10, 999, 5_000_000):
        (start, middle), (also, end) = choose_bytes(size, "train"), choose_bytes(size, "held-out")
        assert (start, middle, end) == (0, also, size)
        assert 0 < size - middle <= 200_000
    path = tmp_path / "text.txt"
    path.write_text("ä" * 500)
    start, end = choose_bytes(1000, "held-out")
    assert "".join(read_plain(path, end - start, start)) == "ä" * 50
    assert "".join(read_plain(path, 99, 1)) == "ä" * 49, "a character that is cut belongs to neither side"


def test_a_recipe_file_that_is_a_folder_or_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"x\.yaml cannot be read"):
        read_yaml(tmp_path / "x.yaml")


def test_the_page_shows_every_field_with_its_default() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
    shown = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    assert set(shown) == set(Recipe.model_fields)
    plain = {**shown, "recover": None, "summary": "", "source": ""}
    assert Recipe.model_validate(plain) == Recipe(name="mine")
    assert set(shown["prune"]) == set(option_types(Pruning))
    assert Recipe.model_validate(shown).recover == {"tokens": 2_000_000, "lr": "2e-5"}
    assert all(name in page for name in shipped())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]\nname: x", "an alias; write the value out"),
        ("x0: &x0 [1]\n" + "\n".join(f"x{n}: &x{n} [*x{n - 1}, *x{n - 1}]" for n in range(1, 40)), "an alias"),
        ("{" * 5000, "nested too deeply"),
        ("[" * 5000, "nested too deeply"),
        ("1: 2\nname: x", "is no recipe"),
        ("name: x\nstages: .inf", "stages"),
        ("name: x\nrecover: {tokens: 1M, lr: .inf}", "lr"),
        ("name: x\nprune: {floor: .nan}", "floor"),
        ("name: {a: {b: 1}}", "name is a mapping"),
    ],
)
def test_what_has_no_end_is_refused_in_a_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_recipe(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_without_plug_ins_they_are_known_by_what_their_sources_declare() -> None:
    second = [Change("prune.importance", "taylor{order=second}", "--importance")]
    assert read_recipe("taylor", second, plugins=False).prune.importance == "taylor{order=second}"
    with pytest.raises(UsageError, match="--importance: taylor has no option 'foo'"):
        read_recipe("taylor", [Change("prune.importance", "taylor{foo=1}", "--importance")], plugins=False)
    with pytest.raises(UsageError, match="did you mean taylor"):
        read_recipe("taylor", [Change("prune.importance", "tailor", "--importance")], plugins=False)


def test_effort_is_an_option_of_what_searches() -> None:
    options = CompileOptions("demo", "60%", dry_run=True, method="evolve", effort="quick")
    assert resolve_recipe(options).prune.allocation == "evolve{effort=quick}"
    with pytest.raises(UsageError, match="methods that search, such as --method evolve; global does not search"):
        resolve_recipe(CompileOptions("demo", "60%", dry_run=True, effort="quick"))
    with pytest.raises(UsageError, match="--effort"):
        CompileOptions("demo", "60%", dry_run=True, effort="long")  # type: ignore[arg-type]
