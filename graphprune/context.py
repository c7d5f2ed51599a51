"""Context: how many positions a model was made for, by whatever name its configuration says it, and what fits in it.

Whatever runs a model takes its lengths from here, so that none is run on positions that it was not made for.
"""

from collections.abc import Iterator, Mapping

NAMES = (
    "max_position_embeddings",
    "n_positions",
    "seq_length",
    "max_seq_len",
    "max_sequence_length",
    "n_ctx",
    "max_target_positions",
)


def stated_context(config: object) -> int | None:
    """The longest sequence that a configuration names, None where it names none above zero.

    `config` is a transformers configuration or the content of a config.json; its text model is asked where it says
    nothing itself.
    """
    found = (field(place, name) for place in places(config) for name in NAMES)
    return next((length for length in found if isinstance(length, int) and length > 0), None)


def fitting(context: int | None, wanted: int) -> int:
    """The length that is wanted, or the context where that is shorter; None is a context without end."""
    return wanted if context is None else max(1, min(wanted, context))


def fitting_run(context: int | None, prompt: int, new: int) -> tuple[int, int]:
    """The tokens of a prompt and of what comes after it that fit the context, in about the proportion that is wanted.

    Each is 1 or more; a context of one token is left by a step.
    """
    if context is None or prompt + new <= context:
        return prompt, new
    first = max(1, min(context - 1, context * prompt // (prompt + new)))
    return first, max(1, context - first)


def places(config: object) -> Iterator[object]:
    """The configuration, and that of the text model within it."""
    yield config
    read = getattr(config, "get_text_config", None)
    yield read() if callable(read) else field(config, "text_config")


def field(config: object, name: str) -> object:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
