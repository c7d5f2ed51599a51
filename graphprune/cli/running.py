"""`graphprune generate` and `graphprune bench`: run the ONNX models that compile wrote."""

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from graphprune.amounts import show_amount
from graphprune.cli.arguments import Folder, Json, Loads, Memory
from graphprune.cli.console.show import print_json, print_table
from graphprune.cli.console.stages import progress_on_stderr
from graphprune.cli.console.terminal import say, warn
from graphprune.cli.looks import check_runnable, check_streaming
from graphprune.context import fitting, fitting_run, stated_context
from graphprune.drivers import has_gpu
from graphprune.errors import UsageError
from graphprune.json_data import JsonObject, read_object
from graphprune.spec import split_commas

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from graphprune.evaluation.bench import Engine, Setting, Speed, Subject
    from graphprune.offload.language_model import StreamedWriter
    from graphprune.progress import Progress
    from graphprune.running.open_model import OpenModel
    from graphprune.running.timing import Rate

EXAMPLES = """[bold]Examples[/bold]

graphprune generate demo-out "def read_lines(path):"

graphprune generate demo-out "import " --tokens 200 --temperature 0.8 --top-p 0.9 --seed 1

graphprune generate demo-out "def add(" "class Point" --variant onnx-int4

graphprune generate MIXTURE "Once upon" --memory 500MB     experts are read as tokens need them"""
BENCH_EXAMPLES = """[bold]Examples[/bold]

graphprune bench demo-out --against demo --threads 2

graphprune bench small --against larger --engines onnxruntime,genai --context 1024 --tokens 128"""

_NEW_TOKENS = 64
Provider = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where onnxruntime runs.")]


def register(app: typer.Typer, asked: str | None) -> None:
    app.command("generate", epilog=EXAMPLES)(generate_command)
    app.command("bench", epilog=BENCH_EXAMPLES)(bench_command)


def generate_command(
    out: Folder,
    prompts: Annotated[
        list[str], typer.Argument(metavar="PROMPT...", help="The text to go on from.", show_default=False)
    ],
    tokens: Annotated[
        int | None, typer.Option(min=1, help="New tokens at most. [dim]default: 64, or what the context has[/dim]")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token each time.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="Draw from so many likeliest tokens; 0 draws from all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens with this share of probability.")] = 1.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1, tokens become less likely once used.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw.")] = 0,
    variant: Annotated[str, typer.Option(help="Which ONNX model of OUT, by its folder: onnx-int4.")] = "",
    provider: Provider = "auto",
    memory: Memory = None,
    loads: Loads = None,
    as_json: Json = False,
) -> None:
    """Go on from one prompt, as the tokens come, or from several at once, with the ONNX model in OUT.

    With --memory it is the checkpoint in OUT, or in any folder of a mixture of experts.
    """
    check_streaming(memory, loads, provider, False)
    if memory is None:
        check_runnable(out, variant)
    check_prompts(prompts)
    from graphprune.data.tokenizer_files import require_tokenizer

    require_tokenizer(out)
    from graphprune.data.tokenizer_files import encoding
    from graphprune.data.tokens import load_tokenizer
    from graphprune.running.sampling import Sampling

    sampling = Sampling(temperature, top_k, top_p, repetition_penalty, seed, never_chosen(out))
    model, end = open_writer(out, variant, provider, memory, loads)
    tokenizer = load_tokenizer(out)
    with encoding():
        ids = [tokenizer(prompt, verbose=False)["input_ids"] for prompt in prompts]
    config = read_config(out)
    check_rows(config, tokenizer, ids)
    tokens = check_lengths(config, prompts, ids, tokens)
    stop = stop_tokens(out, tokenizer)
    if len(ids) == 1 and not as_json:
        for piece in decode_stream(tokenizer, ids[0], model.stream(ids[0], tokens, stop, sampling)):
            say(piece, end="")
        say()
    else:
        made = model.generate(ids, tokens, stop, sampling)
        show_texts(prompts, ids, made, tokenizer, model.provider, as_json)
    end()


def open_writer(
    out: Path, variant: str, provider: str, memory: str | None, loads: Path | None
) -> "tuple[OpenModel | StreamedWriter, Callable[[], None]]":
    """What writes: an ONNX model, or with `memory` the checkpoint; and what to call when it has written."""
    if memory is None:
        from graphprune.budget.installed import open_model

        model = open_model(out / variant if variant else out, provider)
        note_unused_gpu(model.provider, provider)
        return model, lambda: None
    from graphprune.offload.language_model import StreamedWriter, describe_loads, load_offloaded

    language, offloaded = load_offloaded(str(out), memory, loads)

    def end() -> None:
        offloaded.residents.close()
        warn(f"note: {describe_loads(offloaded)}")

    return StreamedWriter(language), end


def show_texts(
    prompts: Sequence[str],
    ids: Sequence[list[int]],
    made: Sequence[list[int]],
    tokenizer: "PreTrainedTokenizerBase",
    provider: str,
    as_json: bool,
) -> None:
    """Print what was written to several prompts."""
    if as_json:
        texts = [tokenizer.decode(row, skip_special_tokens=True) for row in made]
        found = [{"prompt": p, "text": t, "tokens": row} for p, t, row in zip(prompts, texts, made, strict=True)]
        print_json({**found[0], "provider": provider} if len(found) == 1 else {"results": found})
        return
    say("\n\n".join(str(tokenizer.decode(a + b, skip_special_tokens=True)) for a, b in zip(ids, made, strict=True)))


def check_prompts(prompts: Sequence[str]) -> None:
    """Refuse what is no text: bytes that are not UTF-8 reach a program as halves of characters."""
    for prompt in prompts:
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"the prompt is not UTF-8 text at character {error.start + 1}; convert it first"
            ) from error


def note_unused_gpu(used: str, asked: str) -> None:
    """Say on stderr that a GPU is there which onnxruntime does not use, though it was not told to leave it alone."""
    if asked == "auto" and used == "CPUExecutionProvider" and has_gpu():
        warn("note: a GPU is here and not used: pip install 'onnxruntime-gpu[cuda,cudnn]'")


def read_config(out: Path, name: str = "config.json") -> JsonObject:
    """What a configuration in OUT says; nothing where there is none. Raises UsageError for a damaged one."""
    try:
        return read_object(out / name) if (out / name).is_file() else {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{out / name} cannot be read: {error}; compile it again") from error


def check_rows(config: JsonObject, tokenizer: "PreTrainedTokenizerBase", ids: Sequence[Sequence[int]]) -> None:
    """Refuse a token that the model has no row for."""
    text = config.get("text_config")
    rows = (text if isinstance(text, dict) and text else config).get("vocab_size")
    if not isinstance(rows, int):
        return
    beyond = next((id for row in ids for id in row if id >= rows), None)
    if beyond is not None:
        token = tokenizer.convert_ids_to_tokens(beyond)
        raise UsageError(
            f"the prompt has the token {token!r}, for which the model, with {rows:,} rows, has none; leave it out"
        )


def check_lengths(config: JsonObject, prompts: Sequence[str], ids: Sequence[Sequence[int]], tokens: int | None) -> int:
    """How many tokens to make: as asked, else as many as a few lines have and the model has positions for.

    Raises UsageError for what goes beyond them.
    """
    context = stated_context(config)
    for prompt, row in zip(prompts, ids, strict=True):
        if context is not None and len(row) + (tokens or 1) > context:
            raise UsageError(
                f"the prompt {prompt[:20]!r} has {len(row):,} tokens; with {tokens or 1:,} new ones that is more than "
                f"the {context:,} positions of this model; shorten it, or give a smaller --tokens"
            )
    longest = max(map(len, ids), default=0)
    return tokens or (_NEW_TOKENS if context is None else fitting(context - longest, _NEW_TOKENS))


def stop_tokens(out: Path, tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """The tokens that end a text: what the generation configuration says, else the tokenizer's end token."""
    found = read_config(out, "generation_config.json").get("eos_token_id", tokenizer.eos_token_id)
    listed = found if isinstance(found, list) else [found]
    return tuple(each for each in listed if isinstance(each, int))


def never_chosen(out: Path) -> tuple[int, ...]:
    """The tokens that the generation configuration has never chosen, such as those of a prompt."""
    found = read_config(out, "generation_config.json").get("suppress_tokens")
    return tuple(each for each in found if isinstance(each, int)) if isinstance(found, list) else ()


def decode_stream(tokenizer: "PreTrainedTokenizerBase", ids: list[int], stream: Iterable[int]) -> Iterator[str]:
    """Yield the prompt and then the text of each token; a character of several tokens waits for its last one."""
    tokens, shown = list(ids), ""
    for new in itertools.chain([()], ((token,) for token in stream)):
        tokens += new
        text = str(tokenizer.decode(tokens, skip_special_tokens=True))
        if not text.endswith("\ufffd"):
            yield text[len(shown) :]
            shown = text


def bench_command(
    out: Folder,
    against: Annotated[
        str, typer.Option(help="Another compiled folder, or a model: it is exported as the ort backend does.")
    ] = "",
    context: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 256,
    tokens: Annotated[int, typer.Option(min=1, help="New tokens after the first.")] = 64,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each model, in turns; medians are shown.")] = 5,
    threads: Annotated[int, typer.Option(min=0, help="Threads of the processor; 0: few for small models.")] = 0,
    engines: Annotated[str, typer.Option(help="onnxruntime, genai, or both, separated by commas.")] = "onnxruntime",
    provider: Provider = "auto",
    as_json: Json = False,
) -> None:
    """Measure prefill and decoding speed, time to the first token, and memory of every ONNX model in OUT."""
    check_runnable(out)
    from graphprune.budget.installed import require_opener
    from graphprune.evaluation.bench import Setting, bench, models_in
    from graphprune.evaluation.bench import engines as check_engines

    chosen = check_engines(split_commas(engines))
    setting = Setting(context, tokens, runs, threads or None, provider)
    with tempfile.TemporaryDirectory(prefix="graphprune-") as scratch, progress_on_stderr() as progress:
        subjects = [*label(out, models_in(out), chosen)]
        note_unused_gpu(require_opener(subjects[0].folder).provider(provider), provider)
        if against:
            other = find_other(against, Path(scratch), progress)
            subjects = [*label(Path(against), models_in(other), chosen), *subjects]
        setting = within_contexts(setting, subjects)
        found = bench(subjects, setting, progress)
    if as_json:
        print_json({"setting": setting, "results": [describe(speed) for speed in found]})
    else:
        print_speeds(found, setting)


def within_contexts(setting: "Setting", subjects: "Sequence[Subject]") -> "Setting":
    """The setting with lengths that every model was made for; a note says where they are other than asked."""
    configs = [read_config(folder) for each in subjects for folder in (each.folder, each.folder.parent)]
    known = [context for context in map(stated_context, configs) if context is not None]
    if not known or setting.context + setting.tokens < min(known):
        return setting
    context, tokens = fitting_run(min(known) - 1, setting.context, setting.tokens)
    warn(f"note: {min(known):,} positions: measured with {context:,} tokens and {tokens:,} new ones")
    return replace(setting, context=context, tokens=tokens)


def find_other(model: str, scratch: Path, progress: "Progress") -> Path:
    """The folder with the ONNX models to compare with; a model that has none is exported into `scratch`."""
    from graphprune.artefacts.export import load_backends
    from graphprune.evaluation.bench import models_in
    from graphprune.frontend.source import capture

    if Path(model).is_dir() and models_in(Path(model)):
        return Path(model)
    progress(f"exporting {model}", 0, 0)
    graph = capture(model)
    for backend in load_backends(("ort",)):
        backend.export(graph, scratch)
    return scratch


def label(out: Path, folders: Sequence[Path], engines: "Sequence[Engine]") -> "Iterator[Subject]":
    from graphprune.evaluation.bench import Subject

    for folder in folders:
        name = out.name if folder == out else f"{out.name}/{folder.name}"
        for engine in engines:
            if engine != "genai" or (folder / "genai_config.json").is_file():
                yield Subject(name if len(engines) == 1 else f"{name} ({engine})", folder, engine)


def describe(speed: "Speed") -> dict[str, object]:
    """A result as JSON has it."""
    return {
        "model": speed.subject.label,
        "engine": speed.subject.engine,
        "prefill_tokens_per_second": speed.prefill.value if speed.prefill.steady else None,
        "decode_tokens_per_second": speed.decode.value if speed.decode.steady else None,
        "time_to_first_token_ms": speed.first if speed.prefill.steady else None,
        "prefill_spread": speed.prefill.spread,
        "decode_spread": speed.decode.spread,
        "runs": speed.decode.runs,
        "peak_memory_bytes": speed.memory,
        "file_bytes": speed.size,
    }


def print_speeds(found: "Sequence[Speed]", setting: "Setting") -> None:
    first = found[0]
    rows = [
        (
            speed.subject.label,
            show_amount(speed.size, "bytes"),
            show_rate(speed.prefill),
            show_rate(speed.decode),
            times(speed.decode, first.decode),
            f"{speed.first:,.1f} ms" if speed.prefill.steady else "-",
            show_amount(speed.memory, "bytes"),
        )
        for speed in found
    ]
    columns = ("model", "file", "prefill tokens/s", "decode tokens/s", "times", "first token", "peak memory")
    threads = f"{setting.threads} threads" if setting.threads else "threads by size"
    title = f"{setting.context} tokens of context, {setting.tokens} new, {threads}, median of {setting.runs} runs"
    print_table(title, columns, rows)
    if not all(speed.prefill.steady and speed.decode.steady for speed in found):
        say("note: - stands where runs were more than 15 % apart; measure again when the machine does nothing else")


def show_rate(rate: "Rate") -> str:
    """Tokens a second and, in brackets, how far the runs are apart, which alone is said where that is far."""
    spread = "" if rate.spread is None else f" ({rate.spread:.0%})"
    return f"{rate.value:,.1f}{spread}" if rate.steady else f"-{spread}"


def times(rate: "Rate", first: "Rate") -> str:
    """How many times as fast, where both are known."""
    return f"{rate.value / first.value:.2f}" if rate.steady and first.steady else "-"
