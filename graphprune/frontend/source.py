"""Sources: a folder, a hub id, a live model or a plain module becomes a `Graph`."""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from graphprune.errors import SourceError, UsageError, foreign
from graphprune.frontend import checks
from graphprune.frontend.blocks.capture import capture_graph
from graphprune.frontend.config_checks import check_config, check_widths
from graphprune.frontend.generic_checkpoint import read_generic
from graphprune.frontend.places import is_generic, locate
from graphprune.frontend.pretrained import capture_pretrained
from graphprune.frontend.stored_weights import capture_stored
from graphprune.garbage import uncollected
from graphprune.ir.graph import Graph, Source
from graphprune.models.contract import Contract
from graphprune.models.kinds import kind_of
from graphprune.models.patches import quiet_transformers
from graphprune.paths import links_outside, path_of
from graphprune.progress import Progress, no_progress
from graphprune.weights.mapping import is_mapped, mapped_ranges, release

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


READING = "reading the model"


def capture(
    model: str | Path | nn.Module,
    *,
    inputs: Mapping[str, Tensor] | None = None,
    weights: bool = True,
    trust_remote_code: bool = False,
    dtype: torch.dtype | None = None,
    stored: bool = False,
    progress: Progress = no_progress,
) -> Graph:
    """Capture a model as a `Graph`.

    `model` is a folder, a hub id, `demo`, a live `PreTrainedModel`, or any `nn.Module` together with example
    `inputs` by argument name, in order, whose first dimension is the batch. With `weights=False` only the configuration
    is read and the graph holds meta tensors, which is enough to analyse and to plan. `dtype` converts the weights of a
    folder or hub id as they are loaded; with `stored` they stay in their file, as they are there, and become that type
    where an operator reads them. Raises SourceError, CaptureError.
    """
    if isinstance(model, (str, Path)) and is_generic(path_of(str(model))):
        return capture_generic(path_of(str(model)), weights)
    if isinstance(model, (str, Path)):
        progress(READING, 0, 2, "loading it")
        in_file = stored and weights
        loaded, source = load_source(model, weights, trust_remote_code, None if in_file else dtype, in_file)
        progress(READING, 1, 2, "tracing it")
        graph = capture_stored(loaded, dtype or torch.float32) if in_file else capture_pretrained(loaded)
        names = ("kind", "derived_cache", "changes", "dense_rows", "left_out", "whole")
        found = {name: getattr(graph.source, name) for name in names}
        unread = (checks.describe_unread(source.architecture, source.unread),) if source.unread else ()
        notes = (*unread, *link_notes(source.folder))
        return replace(graph, source=replace(source, **found)).note(*notes)
    if hasattr(model, "config") and hasattr(model, "can_generate"):
        return capture_pretrained(cast("PreTrainedModel", model))
    if inputs is None:
        raise UsageError("a plain module needs example inputs: capture(module, inputs={'x': tensor})")
    dynamic = {name: {0: "batch"} for name in inputs}
    return capture_graph(Positional(model), Contract(inputs, dynamic), "module.")


def capture_generic(folder: Path, weights: bool) -> Graph:
    """Read the graph that a generic checkpoint holds; nothing is traced again."""
    checks.check_folder(folder)
    checks.check_weights(folder)
    graph = read_generic(folder)
    graph = replace(graph, notes=(*graph.notes, *link_notes(folder)))
    if weights:
        checks.check_finite(str(folder), graph.tensors().items())
        return graph
    parameters = graph.parameters()
    meta = {n: t.detach().to("meta") for n, t in graph.tensors().items()}
    return graph.with_tensors({n: nn.Parameter(t) if n in parameters else t for n, t in meta.items()})


def link_notes(folder: Path | None) -> tuple[str, ...]:
    """What the user should know of files that a folder only links to."""
    names = links_outside(folder) if folder is not None else []
    if not names:
        return ()
    return (f"links of {folder} to places outside it are not copied: {checks.shorten(names)}; copy the files there",)


class Positional(nn.Module):
    """A plain module that returns its output as a flat tuple."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        output = self.module(*inputs)
        return tuple(output) if isinstance(output, (tuple, list)) else (output,)


def load_source(
    model: str | Path, weights: bool, trust_remote_code: bool, dtype: torch.dtype | None = None, in_file: bool = False
) -> tuple[Any, Source]:
    """Load a transformers model and say where it came from. Raises SourceError with the remedy.

    With `in_file` no more of its weights than one is in memory when this returns, where they keep their type.
    """
    folder, revision = locate(str(model), weights, trust_remote_code)
    plain = check_config(folder)
    if not trust_remote_code:
        checks.check_no_extras(folder, plain)
    checks.check_modules(folder)
    held = checks.check_weights(folder) if weights else None
    if held is not None:
        check_widths(folder, plain, held.entries)
    with uncollected(), quiet_transformers():
        config = load_config(folder, str(model), trust_remote_code)
        stored = stored_dtype(folder, held, config)
        load = functools.partial(load_weights, in_file=in_file) if weights else load_skeleton
        config.dtype = dtype or stored
        loaded, unread = load(folder, str(model), config, trust_remote_code)
    kind = kind_of(loaded)
    generation = getattr(loaded, "generation_config", None)
    hashes = checks.hash_files(folder, weights)
    name = type(loaded).__name__
    source = Source(kind, str(model), name, loaded.config, generation, folder, revision, hashes, stored)
    return loaded, replace(source, trusted=trust_remote_code, unread=unread)


def stored_dtype(folder: Path, weights: checks.Weights | None, config: Any) -> torch.dtype | None:
    """The type of the weights, as their headers say it; as the configuration does, where there is no header to read."""
    try:
        name = (weights or checks.find_weights(folder)).stored_type()
    except SourceError:  # a configuration alone is enough to plan
        name = None
    found = getattr(torch, name) if name else config.dtype
    return found if isinstance(found, torch.dtype) else None


def load_config(folder: Path, name: str, trust_remote_code: bool) -> Any:
    """The configuration object. Raises SourceError where transformers does not know the model or needs its code."""
    import transformers

    with foreign(lambda error: explain_load_failure(name, error)):
        return transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=not trust_remote_code
        )


def explain_load_failure(name: str, error: Exception, config: Any = None) -> SourceError:
    return SourceError(load_failure(name, error, config))


def load_failure(name: str, error: Exception, config: Any = None) -> str:
    import transformers

    text = " ".join(str(error).split()) or type(error).__name__
    if "trust_remote_code" in text:
        return f"{name} brings its own code; read it, then pass --trust-remote-code to let it run"
    if "does not recognize this architecture" in text:
        unknown = re.search(r"model type `([^`]*)`", text)
        kind = unknown[1] if unknown else "of this model"
        return (
            f"{name}: transformers {transformers.__version__} does not know the model type {kind}; upgrade transformers"
        )
    if "adding_idx" in text and config is not None:
        text_part = config.get_text_config()
        return (
            f"{name}: pad_token_id in its config.json is {text_part.pad_token_id}, and the model has rows for the "
            f"tokens 0 to {text_part.vocab_size - 1} alone; give it one of these, or null"
        )
    return f"{name} cannot be loaded: {text[:300]}"


def load_weights(
    folder: Path, name: str, config: "PreTrainedConfig", trust_remote_code: bool, in_file: bool = False
) -> tuple[Any, tuple[str, ...]]:
    """The model with its weights, each of them present, of the right shape and finite; what else the files hold."""
    loader = model_class(config)
    with foreign(lambda error: explain_load_failure(name, error, config)):
        load = functools.partial(
            loader.from_pretrained,
            folder,
            config=config,
            use_safetensors=True,
            dtype=config.dtype or "auto",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are reported, and refused, with the others
            trust_remote_code=trust_remote_code,
            local_files_only=not trust_remote_code,  # code may name another repository of the hub
        )
        model, info = with_whole_attention(loader, load)
    unread = checks.check_keys(name, type(model).__name__, info)
    parameters = model.named_parameters()
    checks.check_finite(name, released(parameters) if in_file else parameters)
    return model.eval(), unread


def released(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The tensors one by one; the memory of one that lies in its file goes back to it when the next is asked for."""
    ranges = mapped_ranges()
    for name, tensor in tensors:
        yield name, tensor
        if is_mapped(tensor, ranges):
            release(tensor.detach())


def load_skeleton(
    folder: Path, name: str, config: "PreTrainedConfig", trust_remote_code: bool
) -> tuple[Any, tuple[str, ...]]:
    """The model on the meta device, made from its configuration alone."""
    loader = model_class(config)
    make = getattr(loader, "_from_config", None) or loader.from_config
    options = {"trust_remote_code": trust_remote_code} if make.__name__ == "from_config" else {}
    with foreign(lambda error: explain_load_failure(name, error, config)), torch.device("meta"):
        load = functools.partial(make, config, dtype=config.dtype, **options)
        return with_whole_attention(loader, load).eval(), ()


def with_whole_attention(loader: Any, load: Callable[..., Any]) -> Any:
    """Load with whole scaled-dot-product attention where the class has it; the automatic choice is right elsewhere."""
    if not getattr(loader, "_supports_sdpa", False):
        return load()
    try:
        return load(attn_implementation="sdpa")
    except ValueError as error:  # a model within the model has it not
        if "attention implementation" not in str(error):
            raise
        return load()


def model_class(config: "PreTrainedConfig") -> Any:
    """The class that the configuration names, or the causal language model of its type."""
    import transformers

    names = config.architectures or []
    known = [getattr(transformers, name) for name in names if hasattr(transformers, name)]
    return known[0] if known else transformers.AutoModelForCausalLM
