"""The installed backends: by their specs, and by the folder that one of them opens."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from graphprune import registry
from graphprune.budget.backend import Backend
from graphprune.errors import GraphpruneError, RegistryError
from graphprune.running.open_model import OpenModel
from graphprune.spec import build, split_spec


def load_backend(spec: str) -> Backend:
    """The backend that a spec describes. Raises UsageError or RegistryError."""
    name, options = split_spec(spec)
    backend = build(backend_class(name), name, options)
    assert isinstance(backend, Backend)
    return backend


def backend_class(name: str) -> type[Backend]:
    """The class behind a name. Raises RegistryError, also where it is no backend."""
    found: type = registry.load("backends", name)
    if not issubclass(found, Backend):
        where = f"{Backend.__module__}.{Backend.__name__}"
        raise RegistryError(f"the backend {name!r} is {found.__qualname__}, which must be a subclass of {where}")
    return found


def backend_classes() -> Iterator[type[Backend]]:
    """All that can be imported: a broken one of somebody else's is no reason not to run a model."""
    for name in registry.names("backends"):
        with contextlib.suppress(RegistryError):
            yield backend_class(name)


def opener_of(folder: Path) -> type[Backend] | None:
    """The first backend that opens what is in a folder; None where none does."""
    return next((backend for backend in backend_classes() if backend.opens(folder)), None)


def require_opener(folder: Path) -> type[Backend]:
    """The same. Raises GraphpruneError where there is nothing to open."""
    found = opener_of(folder)
    if found is None:
        expected = folder / "onnx" / "model.onnx"
        raise GraphpruneError(f"no ONNX model in {folder}: expected {expected}; export one with the onnx backend")
    return found


def open_model(folder: Path, provider: str = "auto", threads: int | None = None) -> OpenModel:
    """Open a model that a backend wrote, see `Backend.open`. Raises GraphpruneError where there is none."""
    return require_opener(folder).open(folder, provider, threads)
