"""Where onnxruntime runs: what it calls the processor and CUDA, and what CUDA needs to start."""

import contextlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from graphprune.errors import GraphpruneError, UsageError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_CUDA = "CUDAExecutionProvider"


def choose_providers(provider: str) -> list[str]:
    import onnxruntime

    available = onnxruntime.get_available_providers()
    names = {"cpu": ["CPUExecutionProvider"], "cuda": [_CUDA, "CPUExecutionProvider"]}
    if provider == "auto":
        return names["cuda" if _CUDA in available else "cpu"]
    if provider not in names:
        raise UsageError(f"unknown provider {provider}; use auto, cpu or cuda")
    if names[provider][0] not in available:
        raise UsageError(f"this onnxruntime has no {provider} provider; install onnxruntime-gpu or use cpu")
    return names[provider]


def load_cuda(providers: Sequence[str]) -> None:
    """Load CUDA's libraries from where torch or pip put them, which onnxruntime does not search by itself."""
    import onnxruntime

    if providers[0] == _CUDA and hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it misses; the session says it better
            onnxruntime.preload_dlls()


def require_provider(provider: str, session: "InferenceSession") -> None:
    """Raise GraphpruneError where CUDA was asked for and onnxruntime went on without it."""
    if provider == "cuda" and session.get_providers()[0] != _CUDA:
        raise GraphpruneError(
            "onnxruntime could not start its CUDA provider: the driver, or CUDA and cuDNN of the versions that it was "
            "built for, are missing; pip install 'onnxruntime-gpu[cuda,cudnn]', or use --provider cpu"
        )
