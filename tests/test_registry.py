import shutil
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from graphprune import registry
from graphprune.axes.rules import BUILT_IN, all_rules
from graphprune.errors import RegistryError
from graphprune.pruning.interfaces import Importance
from graphprune.spec import parse_spec, print_spec

PLUGIN = Path(__file__).parent / "plugin"


def install(site: Path, name: str, module: str = "graphprune_example") -> None:
    """Do to a folder what pip does with the plug-in: copy its module, write its metadata from its own pyproject."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    for source in project["entry-points"].values():
        assert all(value.startswith("graphprune_example:") for value in source.values())
    shutil.copy(PLUGIN / "graphprune_example.py", site / f"{module}.py")
    info = site / f"{name.replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {project['version']}\n")
    rows = [
        f"[{group}]\n"
        + "".join(f"{key} = {value.replace('graphprune_example', module)}\n" for key, value in points.items())
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(rows))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "graphprune_example", raising=False)
    return tmp_path


def test_a_third_party_enters_by_the_same_door_as_the_built_ins(site: Path) -> None:
    assert "first-units" not in registry.names("importance")
    install(site, "graphprune-example")
    assert {"first-units", "magnitude", "taylor"} <= set(registry.names("importance"))
    assert "graphprune_example" not in sys.modules, "nothing is imported until it is asked for"
    instance = parse_spec("importance", "first-units{reverse=true}")
    assert instance.reverse is True
    assert isinstance(instance, Importance)
    assert print_spec(instance) == "first-units{reverse=true}"


def test_a_clash_names_both_distributions(site: Path) -> None:
    install(site, "graphprune-example")
    install(site, "graphprune-rival", "graphprune_rival")
    with pytest.raises(RegistryError, match=r"claimed by graphprune-\w+ .* and graphprune-\w+ ") as caught:
        registry.load("importance", "first-units")
    assert "graphprune-example" in str(caught.value)
    assert "graphprune-rival" in str(caught.value)


def test_an_unknown_name_lists_the_near_and_the_known_ones() -> None:
    with pytest.raises(RegistryError) as caught:
        registry.load("importance", "tailor")
    assert "did you mean taylor?" in str(caught.value)
    assert "magnitude, obs, order, policy, random, routed-tokens, taylor" in str(caught.value)


def test_an_unknown_name_of_an_empty_kind() -> None:
    with pytest.raises(RegistryError, match=r"no graphprune\.axis_rules plug-in is named 'x'"):
        registry.find("axis_rules", "x")


def test_a_plugin_that_cannot_be_imported_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("broken", "graphprune_no_such_module:Thing", "graphprune.importance")
    monkeypatch.setattr(registry, "entry_points", lambda **_: [broken])
    with pytest.raises(RegistryError, match="'broken' of an unknown distribution cannot be imported: No module named"):
        registry.load("importance", "broken")


def test_a_plugin_that_is_no_class_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    function = EntryPoint("function", "graphprune.registry:names", "graphprune.importance")
    monkeypatch.setattr(registry, "entry_points", lambda **_: [function])
    with pytest.raises(RegistryError, match="which is not a class"):
        registry.load("importance", "function")


def install_rules(site: Path, module: str, operator: str) -> None:
    (site / f"{module}.py").write_text(
        "from graphprune.axes.rules.elementwise import RULES as KNOWN\n"
        f"RULES = {{{operator!r}: next(iter(KNOWN.values()))}}\n"
    )
    info = site / f"{module}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {module}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[graphprune.axis_rules]\n{module} = {module}:RULES\n")


def test_rules_of_others_enter_by_the_same_door(site: Path) -> None:
    install_rules(site, "house_rules", "house.op")
    assert "house.op" in all_rules()
    assert all_rules().keys() - {"house.op"} == BUILT_IN.keys()


def test_a_second_rule_for_an_operator_is_refused(site: Path) -> None:
    install_rules(site, "other_rules", "aten.linear")
    with pytest.raises(RegistryError, match=r"'other_rules' gives a second rule for aten\.linear"):
        all_rules()
