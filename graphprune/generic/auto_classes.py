"""Makes transformers' Auto classes know the generic model, without importing transformers before it is needed."""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_CONFIGS = "transformers.models.auto.configuration_auto"
_MODELS = "transformers.models.auto.modeling_auto"
_EARLIER_TYPE = "graphprune"  # of checkpoints that earlier versions wrote


def install() -> None:
    """Register the generic model now if transformers' Auto classes are loaded, otherwise as soon as they are."""
    if _CONFIGS in sys.modules or _MODELS in sys.modules:
        register()
    elif not any(isinstance(finder, AutoFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, AutoFinder())


def register() -> None:
    """Register GraphpruneConfig, and the generic class for each Auto class, with transformers; again does no harm."""
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto

    from graphprune.generic import modeling_graphprune as ours
    from graphprune.generic.interfaces import generic_class, known_classes

    earlier = type(ours.GraphpruneConfig.__name__, (ours.GraphpruneConfig,), {"model_type": _EARLIER_TYPE})
    for name, config in ((ours.GraphpruneConfig.model_type, ours.GraphpruneConfig), (_EARLIER_TYPE, earlier)):
        AutoConfig.register(name, config, exist_ok=True)
        for auto, _ in known_classes():
            generic = getattr(ours, generic_class(auto, "encoder"))
            getattr(modeling_auto, auto).register(config, generic, exist_ok=True)


class AutoFinder(importlib.abc.MetaPathFinder):
    """Finds the Auto modules as usual and registers the generic model right after one of them has run."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in (_CONFIGS, _MODELS):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = RegisteringLoader(spec.loader)
        return spec


class RegisteringLoader(importlib.abc.Loader):
    """Runs a module by its own loader, then registers."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        # Where another part of transformers is half imported, the second of the two modules comes when it is done.
        with contextlib.suppress(ImportError, AttributeError):
            register()
