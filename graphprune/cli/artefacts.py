"""`graphprune verify` and `graphprune generate`: use what compile wrote."""

import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from graphprune.cli.arguments import Folder, Json
from graphprune.cli.show import print_checks, print_json, progress_on_stderr
from graphprune.errors import ParityError, UsageError

EXAMPLES = """[bold]Examples[/bold]

graphprune generate demo-out "def read_lines(path):"

graphprune generate demo-out "import " --tokens 200 --temperature 0.8 --top-k 40 --seed 1"""


def register(app: typer.Typer) -> None:
    app.command("verify")(verify_command)
    app.command("generate", epilog=EXAMPLES)(generate_command)


def verify_command(out: Folder, as_json: Json = False) -> None:
    """Check that the artefacts in OUT still compute the same: logits, cached steps, padding, greedy tokens."""
    check_folder(out)
    from graphprune.parity import check

    with progress_on_stderr() as progress:
        progress(f"checking {out}", 0, 0)
        checks = check(out)
    if as_json:
        print_json({"out": out, "passed": all(each.passed for each in checks), "checks": checks})
    else:
        print_checks(checks)
    failed = [f"{each.artefact} {each.name}" for each in checks if not each.passed]
    if failed:
        raise ParityError(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}; compile it again")


def generate_command(
    out: Folder,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The text to go on from.", show_default=False)],
    tokens: Annotated[int, typer.Option(min=1, help="New tokens at most.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token each time.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="Draw from so many likeliest tokens; 0 draws from all.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    provider: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where onnxruntime runs.")] = "auto",
    as_json: Json = False,
) -> None:
    """Go on from a prompt with the ONNX model in OUT, in onnxruntime with the cache."""
    check_folder(out)
    from graphprune.artefact_files import runtime
    from graphprune.data import load_tokenizer

    model, sampling = runtime().load(out, provider), runtime().Sampling(temperature, top_k, seed)
    tokenizer = load_tokenizer(out)
    ids = tokenizer(prompt)["input_ids"]
    stream = model.stream(ids, tokens, stop_tokens(out, tokenizer), sampling)
    if as_json:
        made = list(stream)
        text = tokenizer.decode(made, skip_special_tokens=True)
        print_json({"prompt": prompt, "text": text, "tokens": made, "provider": model.provider})
        return
    for piece in decode_stream(tokenizer, ids, stream):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def check_folder(out: Path) -> None:
    if not out.is_dir():
        raise UsageError(f"no folder at {out}; pass a folder that graphprune compile wrote")


def stop_tokens(out: Path, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end a text: what the generation configuration says, else the tokenizer's end token."""
    path = out / "generation_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found = config.get("eos_token_id", tokenizer.eos_token_id)
    return tuple(found) if isinstance(found, list) else () if found is None else (found,)


def decode_stream(tokenizer: Any, ids: list[int], stream: Iterable[int]) -> Iterator[str]:
    """Yield the prompt and then the text of each token; a character of several tokens waits for its last one."""
    tokens, shown = list(ids), ""
    for new in itertools.chain([()], ((token,) for token in stream)):
        tokens += new
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        if not text.endswith("\ufffd"):
            yield text[len(shown) :]
            shown = text
