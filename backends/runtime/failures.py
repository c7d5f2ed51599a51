"""What onnxruntime raises: classes of its own, which have no common one, and Python's for feeds that do not fit."""


def failures() -> tuple[type[Exception], ...]:
    """The classes of its errors, and of those of a model file that is none."""
    from google.protobuf.message import DecodeError
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*own, RuntimeError, ValueError, TypeError, OSError, DecodeError)


def first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
