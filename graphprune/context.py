"""Context: how many positions a model was made for, by whatever name its configuration says it."""

from collections.abc import Iterator, Mapping

NAMES = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len")


def stated_context(config: object) -> int | None:
    """The longest sequence that a configuration names, None where it names none above zero.

    `config` is a transformers configuration or the content of a config.json; its text model is asked where it says
    nothing itself.
    """
    found = (field(place, name) for place in places(config) for name in NAMES)
    return next((length for length in found if isinstance(length, int) and length > 0), None)


def places(config: object) -> Iterator[object]:
    """The configuration, and that of the text model within it."""
    yield config
    read = getattr(config, "get_text_config", None)
    yield read() if callable(read) else field(config, "text_config")


def field(config: object, name: str) -> object:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
