"""Parts: a model of more than text is told by its configuration, before its weights are read and it is traced."""

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from graphprune.errors import GraphpruneError
from graphprune.frontend.places import is_generic, locate
from graphprune.frontend.source import load_config, load_skeleton
from graphprune.garbage import uncollected
from graphprune.models.kinds import CONTRACTS, kind_of
from graphprune.models.modalities import ARGUMENTS, count_parameters, left_out
from graphprune.models.patches import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Part(NamedTuple):
    """What a graph of a model would be without: the kinds of input, and the parameters of the whole."""

    architecture: str
    left_out: tuple[str, ...]
    whole: int


def foresee_part(model: str, trust_remote_code: bool = False) -> Part | None:
    """The part of a folder's or hub's model that its graph would be; None for a whole, and where it cannot be told.

    The configuration alone is read, and the model is run on the meta device as its contract has it.
    """
    folder, _ = locate(model, False, trust_remote_code)
    if is_generic(folder):
        return None
    with contextlib.suppress(GraphpruneError), uncollected(), quiet_transformers():
        config = load_config(folder, model, trust_remote_code)
        if config.get_text_config() is config:  # no model within the model
            return None
        skeleton, _ = load_skeleton(folder, model, config, trust_remote_code)
        _, contract = CONTRACTS[kind_of(skeleton)](skeleton)
        kinds = tuple(kind for kind in left_out(skeleton, contract.inputs) if has_tower(skeleton, kind))
        return Part(type(skeleton).__name__, kinds, count_parameters(skeleton)) if kinds else None
    return None


def has_tower(model: "PreTrainedModel", kind: str) -> bool:
    """Say whether a model has one within it that reads what this kind of input is given as."""
    inner = (module for module in model.modules() if module is not model)
    return any(getattr(module, "main_input_name", None) in ARGUMENTS[kind] for module in inner)
