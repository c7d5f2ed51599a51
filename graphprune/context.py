"""Context: how many positions a model was made for, by whatever name its configuration says it, and what fits in it.

Whatever runs a model takes its lengths from here, so that none is run on positions that it was not made for.
"""

from collections.abc import Iterator, Mapping

from graphprune.errors import UsageError

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


def check_windows(window: int, stride: int | None, batch: int, bos: bool = False) -> int:
    """The stride, window - 1 where none is given. Raises UsageError for windows that leave tokens out.

    A stride of the whole window is for windows that do not begin with a token of their own.
    """
    if window < 2 or batch < 1:
        raise UsageError(f"windows are 2 tokens or more and batches 1 or more, not {window} and {batch}")
    most = window - 1 if bos else window
    if stride is not None and not 1 <= stride <= most:
        whole = "; --no-bos makes windows that share nothing" if stride == window else ""
        raise UsageError(f"a stride of {stride} does not fit windows of {window}: it is between 1 and {most}{whole}")
    return window - 1 if stride is None else stride


def places(config: object) -> Iterator[object]:
    """The configuration, and that of the text model within it."""
    yield config
    read = getattr(config, "get_text_config", None)
    yield read() if callable(read) else field(config, "text_config")


def field(config: object, name: str) -> object:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
