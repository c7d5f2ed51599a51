"""Strides: how far apart the windows lie that a text is measured in; nothing heavy is imported for the look at them."""

from graphprune.errors import UsageError


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
