"""The page of benchmarks/adapt_accel.py, from the results that were found."""

import platform
import statistics
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from adapt_accel_runs import (
    CHOICE,
    CHOSEN,
    CHOSEN_SCRATCH,
    COURSE_BYTES,
    CUTS,
    DISTILLED,
    FIRST,
    LATE,
    LATER,
    LENGTH,
    LONG,
    METHODS,
    MODELS,
    PAIRS_A_SET,
    RATES,
    ROWS,
    SAMPLES,
    SHARES,
    STEPS,
    TOKENS,
    TRAINING,
    VALIDATION_BYTES,
    WINDOW,
    Cost,
    Found,
)
from adapt_accel_tables import Results, select_runs, show, table

SETS = 12  # of BLiMP
CARRIED, ONCE_DISTILLED = "interleaved, carried", "once, distilled"


def method_table(model: str, found: Results) -> str:
    """Bits per byte and BLiMP of every method at every size."""
    rows = []
    for method in METHODS:
        for times in (1, LONG) if METHODS[method].scratch else (1,):
            cells = []
            for share in SHARES:
                of = select_runs(found, model=model, share=share, method=method, times=times)
                accuracies = [100 * f.accuracy for f in of if f.accuracy is not None]
                cells += [show([f.bits_per_byte for f in of]), show(accuracies, 1), str(len(of))]
            rows.append([f"{method}, {times} T" if METHODS[method].scratch else method, *cells])
    head = ["method", *(part for share in SHARES for part in (f"{share}: bits per byte", "BLiMP %", "seeds"))]
    return table(head, rows)


def untrained_line(model: str, found: Results) -> str:
    parts = []
    for method in ("once", "once, least squares"):
        cells = []
        for share in SHARES:
            of = select_runs(found, model=model, share=share, method=method)
            cells.append(f"{share} {show([f.untrained for f in of if f.untrained is not None])}")
        parts.append(f"{method}: {', '.join(cells)}")
    return f"Cut and not trained, bits per byte: {'; '.join(parts)}."


def model_section(model: str, found: Results) -> str:
    dense = select_runs(found, model=model, method="none")
    lines = [f"## {model}", ""]
    if dense:
        one = dense[0]
        accuracy = f"BLiMP {100 * (one.accuracy or 0):.1f} % (standard error {100 * (one.accuracy_error or 0):.1f})"
        lines += [f"Dense: {one.parameters:,} parameters, {one.bits_per_byte:.3f} bits per byte, {accuracy}.", ""]
    return "\n".join([*lines, untrained_line(model, found), "", method_table(model, found)])


def tokens_to_reach(result: Found, goal: float) -> int | None:
    """The first tokens on the course at which the loss is at or below the goal; None where it never is."""
    return next((tokens for tokens, bits in result.course if bits <= goal), None)


def ratio_cell(result: Found, goal: Found) -> str:
    """How many times fewer tokens it took to the loss that training from scratch ended at."""
    spent, whole = tokens_to_reach(result, goal.course[-1][1]), goal.course[-1][0]
    if spent is None:
        return f"not reached ({result.course[-1][1]:.3f})"
    return "no training needed" if spent == 0 else f"{whole / spent:.1f} ({spent:,})"


def ratio_table(found: Results) -> str:
    rows = []
    for model in MODELS:
        for share in SHARES:
            for goal in select_runs(found, model=model, share=share, method="scratch", times=LONG)[:1]:
                cells = []
                for method in METHODS:
                    if method != "scratch":
                        of = select_runs(found, model=model, share=share, method=method, seed=goal.run.seed)
                        cells.append(ratio_cell(of[0], goal) if of else "-")
                rows.append([f"{model}, {share}", f"{goal.course[-1][1]:.3f}", *cells])
    return table(["model, size", "from scratch", *(method for method in METHODS if method != "scratch")], rows)


def comparison(found: Results, left: str, right: str) -> str:
    """How often the left method is at or below the right one, cell by cell."""
    cells = gaps(found, left, right)
    if not cells:
        return f"- **{left}** against **{right}**: not measured."
    wins, shown = (
        sum(gap <= 0 for gap in cells.values()),
        "; ".join(f"{cell} {gap:+.3f}" for cell, gap in cells.items()),
    )
    return f"- **{left}** at or below **{right}** in {wins} of {len(cells)} cells: {shown}."


def gaps(found: Results, left: str, right: str) -> dict[str, float]:
    """By model and size, how far the left method lies above the right one: the mean over the seeds that both have."""
    result = {}
    for model in MODELS:
        for share in SHARES:
            a = {f.run.seed: f.bits_per_byte for f in select_runs(found, model=model, share=share, method=left)}
            b = {f.run.seed: f.bits_per_byte for f in select_runs(found, model=model, share=share, method=right)}
            both = sorted(a.keys() & b.keys())
            if both:
                result[f"{model} {share}"] = statistics.mean(a[seed] - b[seed] for seed in both)
    return result


def verdict(found: Results, goal: str, left: str, right: str) -> str:
    """Whether a goal is met in the cells that were measured."""
    cells = gaps(found, left, right)
    if not cells:
        return f"- {goal}: not measured."
    count, all_cells = sum(gap <= 0 for gap in cells.values()), len(MODELS) * len(SHARES)
    word = "met" if count == len(cells) else "not met" if count == 0 else "met in part"
    return f"- {goal}: **{word}**,\n  in {count} of the {len(cells)} cells measured (of {all_cells})."


def verdicts(found: Results, costs: Sequence[Cost]) -> str:
    lines = [
        verdict(found, "Interleaved with carried moments, tokens shared linearly, at or below once", CARRIED, "once"),
        verdict(found, "Interleaved with carried moments and late tokens at or below once", LATER, "once"),
        verdict(found, "Carried moments no worse than reset", CARRIED, "interleaved, reset"),
        verdict(
            found,
            "Interleaved with late tokens at or below once, both with half distillation",
            DISTILLED,
            ONCE_DISTILLED,
        ),
        verdict(found, "Half distillation at or below none, cut once", ONCE_DISTILLED, "once"),
        verdict(found, "Half distillation at or below none, interleaved with late tokens", DISTILLED, LATER),
        verdict(found, "Least squares before the training helps, cut once", "once, least squares", "once"),
    ]
    if costs:
        times = costs[1].seconds / costs[0].seconds
        word = "met" if times <= 2 else "not met"
        lines.append(
            f"- A prune step takes at most twice the time of a forward and backward: **{word}**, {times:.2f} times."
        )
        lines.append(f"  Its memory is {costs[1].peak / costs[0].peak:.1f} times as much, by a rough measure.")
    return "\n".join([*lines, ratio_line(found)])


def ratio_line(found: Results) -> str:
    """The largest saving of tokens in each cell that was also trained from scratch."""
    parts = []
    for goal in (f for run, f in found.items() if run.method == "scratch" and run.times == LONG):
        aim, best = goal.course[-1], list[tuple[float, str]]()
        for f in select_runs(found, model=goal.run.model, share=goal.run.share, seed=goal.run.seed):
            spent = tokens_to_reach(f, aim[1]) if f.run.method not in ("scratch", "none") else None
            if spent is not None:
                best.append((aim[0] / max(spent, 1), f.run.method))
        where = f"{goal.run.model} {goal.run.share}"
        parts.append(f"{where} {named_ratio(*max(best), aim[0])}" if best else f"{where} not reached")
    text = "; ".join(parts) or "not measured"
    return f"- Times fewer tokens than {LONG} T from scratch for the same loss, the best row:\n  {text}."


def named_ratio(ratio: float, method: str, whole: float) -> str:
    """Where not one token was needed there is no ratio."""
    return f"{'no training needed' if ratio >= whole else f'{ratio:.1f}'} ({method})"


def choice_table(found: Results) -> str:
    rows = []
    for model, method in (*((MODELS[0], method) for method in CHOICE), (MODELS[1], "once"), (MODELS[2], "once")):
        cells = [select_runs(found, model=model, method=method, lr=rate, text="train") for rate in RATES]
        rows.append([f"{model}, {method}", *(show([f.bits_per_byte for f in cell]) for cell in cells)])
    return table(["model, method", *(f"{rate:g}" for rate in RATES)], rows)


def cost_table(costs: Sequence[Cost]) -> str:
    if not costs:
        return "Not measured yet."
    one = costs[0]
    rows = []
    for cost in costs:
        times = f"{cost.seconds / one.seconds:.2f}"
        rows.append([cost.what, f"{cost.seconds:.2f}", times, f"{cost.peak:.0f}", f"{cost.peak / one.peak:.2f}"])
    return table(["what", "seconds", "times", "peak MiB", "times"], rows)


def error_line(found: Results) -> str:
    errors = [100 * f.accuracy_error for f in found.values() if f.accuracy_error is not None]
    return f"its standard error is {min(errors):.1f} to {max(errors):.1f} points" if errors else "not measured yet"


def versions() -> str:
    from importlib.metadata import version

    names = ("graphprune", "torch", "transformers", "accelerate")
    return ", ".join(f"{name} {version(name)}" for name in names) + f", Python {platform.python_version()}"


GOALS = (
    (CARRIED, "once"),
    ("interleaved, reset", "once"),
    (LATER, "once"),
    (LATER, CARRIED),
    (CARRIED, "interleaved, reset"),
    (ONCE_DISTILLED, "once"),
    (DISTILLED, LATER),
    (DISTILLED, ONCE_DISTILLED),
    ("once, teacher alone", "once"),
    ("once, teacher alone", ONCE_DISTILLED),
    ("once, least squares", "once"),
    ("once, distilled, least squares", ONCE_DISTILLED),
    ("once", "scratch"),
)


NOTES = """\
This is a short training: T tokens are 0.04 to 0.5 a parameter of the dense models. Seeds of one row differ by up to
0.04 bits per byte, so smaller differences say nothing. Running the script again fills in what is a dash.

**Interleaving.** With five stages and linear shares two thirds of the tokens are spent before the last cut, on weights
of which a part then goes, and every cut makes a loss that the tokens after it must win back. With {STEPS} steps in all
what is left after the last cut is too short for that, most clearly on stories260K. With late tokens it is level
with cutting once on the stories models at 80 % and 60 %, and at 40 % level or better, by far on babyllama: the deeper
the cut, the more is it worth to score anew what was trained in between.

**Moments.** A reset costs 0.03 to 0.06 bits per byte on stories3M: after it AdamW takes its first steps too large, at
the full rate without the scale of the gradients. On the other two models it makes next to no difference.

**Distillation.** Half from the teacher and half from the text gains in every cell, and more than anything else but for
babyllama at 40 %, where interleaving does. The teacher alone is worse than the mixture, and on the stories models no
better than the text alone. The recipe `adapt-accel-kd` has the mixture for that
reason. Other weights and temperatures were not tried.

**Least squares** makes the untrained model much better, and its first steps too. At the end of the training nothing of
that is left on the stories models; on babyllama something is.

**From scratch.** What is cut needs a small part of the tokens that the same shape needs from scratch for the same loss,
least at 80 %, where little is lost. The rate from scratch is not the best for every model, see below.

**The learning rate** matters more than all of this: at three times its best rate stories3M loses more than any two
methods differ by. At ten times its best rate babyllama with least squares
gets worse by training. The paper's, 2e-5 at 128 rows a step, was not tried.
"""


def page(found: Results, costs: Sequence[Cost]) -> str:
    goals = "\n".join(comparison(found, *pair) for pair in GOALS)
    error = error_line(found)
    sections = "\n\n".join(model_section(model, found) for model in MODELS if select_runs(found, model=model))
    left = ", ".join(model for model in MODELS if not select_runs(found, model=model))
    sections += f"\n\nNot measured yet: {left}." if left else ""
    return f"""# Adapt-Accel, measured

What training after the cut, and between cuts, is worth at equal tokens, and against training the small shape from
scratch. Made on {date.today()} by

    python benchmarks/adapt_accel.py

with {versions()}.

## What it shows

{verdicts(found, costs)}

{NOTES.format(STEPS=STEPS)}
## Protocol

Every row is trained on the same T = {TOKENS:,} tokens: {STEPS} steps of {ROWS} rows of BOS and {WINDOW - 1} tokens
of the first part of TinyStories' train split (`{Path(TRAINING).name}`, its last 200,000
bytes left out), AdamW, warm-up over 5 % and decay over the last 10 % of all steps, in float32; the last weights are
reported. From scratch on {LONG} T the text is gone through more than once where it is shorter than that. Sizes are
shares of all parameters. Taylor importance and adaptive allocation in {CUTS} rounds, with {SAMPLES} windows of {LENGTH}
tokens. *Once* cuts in all rounds and then trains, *interleaved* trains after each round ({CUTS} stages, token shares
linear, one learning-rate schedule over all). *Reset* starts AdamW anew after each cut, as the paper does, *carried*
slices its moments with the weights. *Late tokens* leaves {LATE:.0%} of the tokens for the time after the last cut, in
place of a third. *Distilled* learns from the text and from the logits of the unpruned model at temperature 2, half
and half; *teacher alone* from the logits only. *Least squares* is
`least-squares{{consumers=all}}` after each cut. *Scratch* is the shape of *once* with weights drawn anew.

Reported on the first {VALIDATION_BYTES:,} bytes of the validation split, in windows of BOS and {WINDOW - 1} tokens,
each token predicted once. BLiMP is the mean over {SETS} sets of {PAIRS_A_SET} minimal pairs each; {error}.
A seed draws the calibration windows, the order of the rows, and the weights of *scratch*. A cell is the mean over the
seeds that were measured ± their standard deviation, a dash is not measured.

{sections}

## Method against method

Differences in bits per byte, mean over the seeds that both have; below 0 the first is better.

{goals}

## Tokens to the loss of training from scratch

The loss that training the same shape from scratch ends at after {LONG} T = {LONG * TOKENS:,} tokens, how many times
fewer tokens a row took to reach it, and in brackets the tokens it took, those of all stages included. Only the model in
its final size counts: an interleaved row is looked at from its last cut on. On the first {COURSE_BYTES:,} bytes of the
validation split, one seed; looked at after 0, 2, 4, 8, ... 64 steps of {ROWS * WINDOW:,} tokens from the last cut
on, with no decay of the learning rate before, and at the end.

{ratio_table(found)}

{appendix(found, costs)}"""


def appendix(found: Results, costs: Sequence[Cost]) -> str:
    """What a prune step costs, and how the learning rates were chosen."""
    return f"""## The cost of a prune step

{MODELS[0]}, {SAMPLES} windows of {LENGTH} tokens, one thread: a cut of 2 % (score, allocate, rewrite, with the analysis
between) beside one forward and backward of the same batches. Seconds of the processor, median of three; memory is
what the resident memory of the process grows by, the first time. What the allocator had already is not seen in it, so
it is a lower bound, and says little of the parts, which come later. The goal is at most 2 times.

{cost_table(costs)}

## How the learning rates were chosen

At {FIRST}, T tokens, seed 0, on 100,000 bytes held out of the train split; bits per byte, with an earlier version of
the allocation. All rows of a model have one rate, the best for *once*. The rate from scratch was chosen on
stories3M-hf at T tokens, between two, and not for the other models or for {LONG} T, where another might end lower:
the ratios above may be that much too good. For
babyllama-tok105-hf 1e-4 is the lowest that was tried; a lower one may be better.

{choice_table(found)}

{"; ".join(f"{model} {rate:g}" for model, rate in CHOSEN.items())}; from scratch {CHOSEN_SCRATCH:g}.
"""
