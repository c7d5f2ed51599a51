"""Patches of transformers: those of models that are not there are left alone, and all are taken back."""

import sys
from types import SimpleNamespace
from typing import Any

from graphprune.models.patches import of_other_model, only_loaded, transformers_patches

_UNLOADED = "transformers.models.no_such_model.modeling_no_such_model"
_LOADED = "transformers.models.auto.modeling_auto"


def test_only_patches_of_models_that_are_not_loaded_are_left_out() -> None:
    import transformers.models.auto.modeling_auto  # noqa: F401 - a model's code that is loaded

    assert of_other_model(_UNLOADED)
    assert of_other_model(f"{_UNLOADED}.Attention")
    assert not of_other_model(f"{_LOADED}.AutoModel")
    assert not of_other_model("torch.nn.functional")
    patches: list[Any] = [(_UNLOADED, "forward", None), (_LOADED, "AutoModel", None), ("torch", "where", None)]
    exporters = SimpleNamespace(_PATCHES={"dynamo": patches})
    with only_loaded(exporters):
        assert exporters._PATCHES["dynamo"] == patches[1:]
    assert exporters._PATCHES["dynamo"] is patches


def test_a_version_of_transformers_without_the_registry_applies_what_it_has() -> None:
    with only_loaded(SimpleNamespace()):
        pass


def test_no_model_is_loaded_to_be_patched() -> None:
    before = {name for name in sys.modules if ".modeling_" in name}
    with transformers_patches():
        assert {name for name in sys.modules if ".modeling_" in name} == before
