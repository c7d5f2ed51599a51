"""Part `held`: tokens a second and peak memory of recovery by what is held for backward and of the optimizer."""

from functools import partial

from part import Part as Run
from part import run_part
from shapes import LARGE, TINY
from throughput import Batch, make_subject, measure_peak, measure_plain, measure_recovery

WAYS = {
    "recover, checkpoint=off": partial(measure_recovery, checkpoint="off"),
    "recover, checkpoint=selective": partial(measure_recovery, checkpoint="selective"),
    "recover, checkpoint=full": partial(measure_recovery, checkpoint="full"),
    "recover, compiled, checkpoint=full": partial(measure_recovery, compile=True, checkpoint="full"),
    "recover, checkpoint=full, states=bf16": partial(measure_recovery, checkpoint="full", states="bf16"),
    "recover, checkpoint=full, states=int8, in_backward": partial(
        measure_recovery, checkpoint="full", states="int8", in_backward=True, clip=0.0
    ),
    "transformers, eager": partial(measure_plain, compiled=False),
}


def measure(part: Run) -> None:
    peak = measure_peak(part.device, 256 if part.tiny else 8192)
    shape, batch = (TINY, Batch(2, 32, 3, 1)) if part.tiny else (LARGE, Batch(4, 2048, 12, 4))
    subject = make_subject(shape, batch, part, peak)
    for way, work in WAYS.items():
        part.attempt(partial(work, subject), shape=shape.name, way=way)


if __name__ == "__main__":
    run_part("held", measure)
