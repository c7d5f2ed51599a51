"""The web backend: a folder that transformers.js opens, in a browser or in Node."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self, final

from graphprune.backends.web.variants import BLOCK, KEPT, VARIANTS, Variant
from graphprune.bounds import Count, require_limits
from graphprune.budget.backend import Backend
from graphprune.errors import ExportError, UsageError

if TYPE_CHECKING:
    from graphprune.budget.quantities import FileBytes
    from graphprune.ir.graph import Graph


@final
@dataclass(frozen=True)
class Web(Backend):
    """Write `web/`, which transformers.js opens: `onnx/model.onnx`, `model_fp16.onnx`, `model_quantized.onnx`, others.

    `variants` are the types of weights, as transformers.js calls them: fp32, fp16, q8, q4, q4f16. It takes q8 in a
    browser and fp32 elsewhere unless it is told, or `dtype` says otherwise. Each layer has a cache of its own size. A
    file of more than `file_bytes` has its weights in others of at most so many beside it. Tables stay wide: what packs
    them runs in no WebAssembly build. It needs onnxruntime.
    """

    name: ClassVar[str] = "web"
    files: ClassVar[tuple[str, ...]] = ("onnx/model*",)
    variants: tuple[Variant, ...] = VARIANTS
    dtype: str = ""
    folder: str = "web"
    file_bytes: Count = 1 << 30

    def __post_init__(self) -> None:
        require_limits(self, self.name)
        unknown = next((each for each in self.variants if each not in VARIANTS), None)
        if unknown is not None or not self.variants or len(set(self.variants)) < len(self.variants):
            raise UsageError(f"web{{variants=...}} takes some of {', '.join(VARIANTS)}, each once, not {self.variants}")
        if self.dtype and self.dtype not in self.variants:
            raise UsageError(f"web{{dtype={self.dtype}}} is none of its variants, {', '.join(self.variants)}")

    @property
    def place(self) -> str:
        return self.folder

    def tuned(self, block: int) -> Self:
        wrong = next((each for each in self.variants if each in ("q8", "q4f16")), None)
        if wrong is not None:
            raise UsageError(f"web has no {wrong} of what is tuned in 4 bits: write web{{variants=[fp32,fp16,q4]}}")
        if "q4" in self.variants and block % BLOCK:
            raise UsageError(f"web packs in blocks of {BLOCK}: set recover.lora_block to a multiple of that")
        return self

    def quantity(self, graph: "Graph") -> "FileBytes | None":
        """What its one variant takes; of several no file can be asked for by size."""
        from graphprune.budget.quantities import FileBytes

        if len(self.variants) > 1 or self.variants[0] == "q4f16":
            return None
        return FileBytes(KEPT[self.variants[0]], place=self.label)

    def require_source(self, graph: "Graph") -> None:
        from graphprune.backends.web.config import check_source

        check_source(graph)

    def export(self, graph: "Graph", folder: Path) -> list[Path]:
        """Write the folder and return its paths, config.json first. Raises ExportError."""
        from graphprune.backends.onnx.files import copy_companions
        from graphprune.backends.web.config import check_source, write_config
        from graphprune.backends.web.variants import write_variants
        from graphprune.ir.placement import on_cpu

        check_source(graph)
        graph, target = on_cpu(graph), folder / self.place
        try:
            (target / "onnx").mkdir(parents=True, exist_ok=True)
            written = write_variants(graph, target / "onnx", self.variants, self.file_bytes)
            others = copy_companions(graph.source.files, target)
            config = write_config(graph, target, self.dtype, written.chunks)
        except OSError as error:
            raise ExportError(f"cannot write {error.filename or target}: {error.strerror or error}") from error
        return [config, *written.paths, *(path for path in others if path != config)]
