"""The parts: what each proves, how long it takes on an H100 and from which operations that is estimated."""

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIMIT = 240  # seconds that a part may take on a GPU


@dataclass(frozen=True)
class Part:
    """One part. `seconds` is estimated for an H100 from `work`; `columns` are headings and the keys of its rows."""

    name: str
    proves: str
    seconds: int
    work: str
    columns: tuple[tuple[str, str], ...]
    gpu_runtime: bool = False  # whether onnxruntime-gpu takes the place of onnxruntime

    @property
    def program(self) -> Path:
        return HERE / f"{self.name.replace('-', '_')}.py"


_CHECKS = Part(
    "checks",
    "A GPU computes what the processor does: capture, analysis, scores, cuts, training, resume, evaluation, export",
    110,
    "some 60 tests of a two-layer model, all launches: 40 s of imports and CUDA start, 3 compilations of 15 s, the "
    "rest below 1 s each",
    (("test", "what"), ("outcome", "outcome"), ("seconds", "seconds")),
)
_THROUGHPUT = Part(
    "throughput",
    "How fast recovery trains, beside a plain loop over transformers' own class, as a share of the card's peak",
    230,
    "steps at 35 % of 790 TFLOP/s: 125M 24 x 32,768 tokens x 1.1 GFLOP = 0.9 PFLOP, 3 s a way; 1.2B 20 x 8,192 tokens "
    "x 8.2 GFLOP = 1.3 PFLOP, 5 s a way (with a teacher a third more); 10 ways 45 s, 6 compilations of 20 to 25 s, "
    "2 captures and moving 15 GB of states 4 times 45 s",
    (
        ("shape", "shape"),
        ("way", "way"),
        ("batch", "batch"),
        ("tokens/s", "tokens_per_second"),
        ("TFLOP/s", "tflops"),
        ("of the peak", "share_of_peak"),
        ("peak GiB", "peak_gib"),
        ("first step, s", "first_step_seconds"),
    ),
)
_HELD = Part(
    "held",
    "What checkpointing, narrow moments and steps within backward save of the card's memory, and what they cost",
    170,
    "1.2B as in throughput, 12 steps x 8,192 tokens x 8.2 GFLOP = 0.8 PFLOP, 3 s each, a third more where forward runs "
    "again; 7 ways 25 s, 2 compilations of 20 to 25 s, a capture and moving 15 GB of states 7 times 90 s",
    _THROUGHPUT.columns,
)
_ACCEL = Part(
    "accel",
    "What training after and between cuts is worth at 2M, 8M and 32M tokens, which a CPU cannot show",
    220,
    "30 models x 14M tokens on average = 420M tokens in 25,600 steps of 16,384; 5 workers on one card, each bound by "
    "some 700 launches a step (8 to 12 ms, half as much again with a teacher), together about 140 steps/s: 185 s; "
    "start, captures and choice of the rates 35 s",
    (
        ("size", "share"),
        ("method", "method"),
        ("tokens", "tokens"),
        ("epochs", "epochs"),
        ("rate", "lr"),
        ("text", "text"),
        ("bits per byte", "bits_per_byte"),
        ("after the cut", "untrained"),
        ("parameters", "parameters"),
        ("seconds", "seconds"),
    ),
)
_SMOLLM2 = Part(
    "smollm2",
    "A real model of 135M parameters is cut to 80 and 60 % and recovered, all on the card",
    235,
    "reading the GGUF file 35 s; 2 compilations 30 s each (32,768 tokens x 0.8 GFLOP of gradients = 26 TFLOP, the rest "
    "is solving, writing and checking); start and evaluations 45 s; what is left, some 95 s, trains at about 100,000 "
    "tokens/s",
    (
        ("size", "share"),
        ("state", "state_of_model"),
        ("tokens", "tokens"),
        ("epochs", "epochs"),
        ("WikiText-2 perplexity", "perplexity"),
        ("bits per byte of the mixture", "bits_per_byte"),
        ("parameters", "parameters"),
        ("tokens/s", "tokens_per_second"),
        ("peak GiB", "peak_gib"),
        ("seconds", "seconds"),
    ),
)
_ONNX_CUDA = Part(
    "onnx-cuda",
    "The ONNX models run on onnxruntime's CUDA provider and give the logits of the graph",
    200,
    "2 captures and 6 exports 60 s; 12 sessions of 5 s; a decoded token of the 125M shape reads 0.5 GB (0.2 ms of 3 "
    "TB/s, launches 3 ms), on the processor 60 ms: 64 tokens x 3 runs x 6 models 40 s; the command line 40 s",
    (
        ("model", "model"),
        ("what", "what"),
        ("provider", "provider"),
        ("largest difference", "difference"),
        ("prefill tokens/s", "prefill"),
        ("decode tokens/s", "decode"),
    ),
    gpu_runtime=True,
)
_COMPILE_1B = Part(
    "compile-1b",
    "A model of 3B parameters is compiled to 1B on one card, and where the seconds and the memory go",
    235,
    "weights 6.4 GB: written 10 s, read twice 30 s; taylor 16,384 tokens x 19 GFLOP = 0.3 PFLOP of float32 at 40 "
    "TFLOP/s 10 s; adapt-pruner-ls 32,768 tokens x 6.4 GFLOP and 28 solutions of 8,192^3 15 s; copies over PCIe 13 GB "
    "a way, cutting and writing 4 GB 60 s; checks in a fresh process 2 x 40 s",
    (
        ("method", "method"),
        ("phase", "phase"),
        ("seconds", "seconds"),
        ("host peak GiB", "host_gib"),
        ("GPU peak GiB", "gpu_gib"),
    ),
)
_SPARSE = Part(
    "sparse",
    "What two zeros in each four weights gain on the card, packed by torch beside the dense product",
    60,
    "30 products, the largest 32,768 x 14,336 x 4,096 or 3.8 TFLOP, 46 runs each at 400 TFLOP/s 20 s in all; a model "
    "of 1.2B drawn and made sparse 10 s, 46 prefills of 8,192 tokens x 2.4 GFLOP 5 s; start 15 s",
    (
        ("what", "what"),
        ("tokens", "tokens"),
        ("dense, ms", "dense"),
        ("packed, ms", "packed"),
        ("gain", "gain"),
        ("largest difference", "difference"),
        ("dense GiB", "dense_gib"),
        ("packed GiB", "packed_gib"),
    ),
)
PARTS = {part.name: part for part in (_CHECKS, _THROUGHPUT, _HELD, _ACCEL, _SMOLLM2, _ONNX_CUDA, _COMPILE_1B, _SPARSE)}
