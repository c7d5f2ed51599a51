"""Interfaces: how users call a class of models: by its Auto class, a pipeline's task, and the generic class for it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

# Where several Auto classes have an architecture, the first of these is its own, and one of the last only for want of
# another.
_FIRST = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForSpeechSeq2Seq", "AutoModelForImageTextToText")
_LAST = ("AutoModelForPreTraining", "AutoModelForMultimodalLM", "AutoModel", "AutoModelForTextEncoding")
_GENERATING = ("AutoModelForSeq2SeqLM", "AutoModelForSpeechSeq2Seq")


@final
@dataclass(frozen=True)
class Interface:
    """The Auto class of a model, and the class that stands for its own in the generic form."""

    auto: str
    generic: str

    @property
    def task(self) -> str | None:
        """The name of the pipeline for it, None where transformers has none."""
        from transformers.pipelines import SUPPORTED_TASKS

        entries: Mapping[str, Any] = SUPPORTED_TASKS
        return next((task for task, entry in entries.items() if self.auto in autos_of(entry)), None)


def autos_of(entry: Mapping[str, Any]) -> set[str]:
    return {auto.__name__ for auto in entry["pt"]}


def interface_of(architecture: str, kind: str) -> Interface:
    """The interface of a class of transformers whose graph is of a kind: `decoder`, `seq2seq`, `encoder`."""
    if kind == "decoder":
        return Interface("AutoModelForCausalLM", "GraphpruneForCausalLM")
    auto = auto_class(architecture)
    if auto == "AutoModelForCausalLM":  # captured without a cache
        return Interface("AutoModel", "GraphpruneModel")
    return Interface(auto, generic_class(auto, kind))


def generic_class(auto: str, kind: str) -> str:
    """The class of modeling_graphprune.py for an Auto class; what has no task of its own there gives its outputs."""
    from graphprune.generic import modeling_graphprune

    if kind == "seq2seq" and auto != "AutoModel" and auto not in _GENERATING:
        return "GraphpruneForSeq2SeqLM"
    name = "Graphprune" + auto.removeprefix("AutoModel")
    return name if hasattr(modeling_graphprune, name) and auto != "AutoModel" else "GraphpruneModel"


def auto_class(architecture: str) -> str:
    """The Auto class that an architecture is loaded by; AutoModel for one that none of them knows."""
    found = (name for name, classes in known_classes() if architecture in classes)
    return min(found, key=rank, default="AutoModel")


def rank(auto: str) -> int:
    return _FIRST.index(auto) if auto in _FIRST else len(_FIRST) + (1 + _LAST.index(auto) if auto in _LAST else 0)


def known_classes() -> Iterator[tuple[str, set[str]]]:
    """Every Auto class of models with the names of the classes that it loads."""
    from transformers.models.auto import modeling_auto

    for name, auto in vars(modeling_auto).items():
        mapping = getattr(getattr(auto, "_model_mapping", None), "_model_mapping", None)
        if name.startswith("AutoModel") and mapping is not None:
            yield name, set(flat(mapping.values()))


def flat(names: Any) -> Iterator[str]:
    """Names of which some stand in tuples."""
    for name in names:
        yield from name if isinstance(name, (tuple, list)) else (name,)
