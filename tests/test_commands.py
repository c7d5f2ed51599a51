"""Every command that README and the docs show is taken: its options, its recipe and specs, its texts and folders.

What takes long is not done: a compilation ends where its work would begin. With --really (`make test-commands`) all of
it is, on models and texts so small that it takes a few seconds each, with sizes that such models can have.
"""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers

from graphprune.cli.main import run
from graphprune.compiler import compile as compilation
from graphprune.evaluation import bench, scorecard
from graphprune.sweeping import sweep as sweeping
from tests.support.tiny_source import WORDS, write_source

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
# What stands for something of the user's, and what it is here.
MODELS = ("llama", "MODEL", "my-lora", "clip", "all-MiniLM-L6-v2", "real-smol", "babyllama-tok105-hf")
MODELS += ("stories3M-hf", "stories260K-hf")
NOT_HERE = {
    "init": "asks questions, which tests/cli/test_starting.py answers",
    "--push-to-hub": "asks the hub",
    "--tracker wandb": "wants wandb",
    "--tasks": "asks lm-eval for its tasks",
    "https://HOST": "asks a server",
    "MIXTURE": "runs a mixture, as tests/offload does",
    "mope-clip": "reads pairs, as tests/compiler/test_pairs.py does",
    "proposer=FOLDER": "writes with another model",
}


TRAINING = ("adapt-accel", "sheared", "efficientllm", "ast", "saap-tuned")


class Accepted(BaseException):
    """The work would begin here."""


def commands() -> Iterator[str]:
    """The commands in blocks of the pages, without what stands behind them to explain them."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"(?m)^ {4}graphprune ([a-z]+ .*|[a-z]+)$", text):
            yield re.split(r" {2,}(?=[a-z])| \| source| > ~", re.sub(r"(?<=\S) {2,}(?=-)", " ", line))[0].strip()


SHOWN = sorted(set(commands()))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands name, and OUT of a compilation."""
    folder = tmp_path_factory.mktemp("shown")
    source = write_source(folder / "source", max_position_embeddings=1024)
    for name in MODELS:
        shutil.copytree(source, folder / name)
    write_mixture(folder / "moe", source)
    texts = {name for line in SHOWN for name in re.findall(r"[\w.-]+\.txt", line)}
    for name in sorted(texts | {"A", "B", "TEXT"}):
        (folder / name).write_text(f"{name} {WORDS}" * 400)
    (folder / "my.yaml").write_text("name: mine\nprune: {importance: magnitude}\n")
    (folder / "run.yaml").write_text("model: ./llama\ntarget_params: 60%\nout: made\ndata: corpus.txt\n")
    made = ["compile", str(source), "-o", str(folder / "OUT"), "--target-params", "80%", "--method", "magnitude-sp"]
    made += ["--backends", "huggingface,onnx,ort{precision=int4}"]
    assert run([*made, "--data", str(folder / "corpus.txt"), "--length", "16"]) == 0
    shutil.copytree(folder / "OUT", folder / "demo-out")
    points = folder / "OUT" / "points" / "60%"
    points.mkdir(parents=True)
    shutil.copy(folder / "OUT" / "graphprune" / "plan.json", points)
    shutil.copy(folder / "OUT" / "graphprune" / "plan.json", folder / "PLAN")
    return folder


def write_mixture(folder: Path, source: Path) -> None:
    """A mixture of eight experts, with the tokenizer of another model."""
    shutil.copytree(source, folder)
    sizes = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 8, "num_experts_per_tok": 2}
    config = transformers.MixtralConfig(**sizes, **heads, bos_token_id=0, eos_token_id=0)
    model: Any = transformers.MixtralForCausalLM(config)
    model.save_pretrained(folder)


@pytest.fixture
def here(shown: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder with what the commands name is the present one, where the command is for here."""
    reason = next((why for part, why in NOT_HERE.items() if part in shown), None)
    if reason is not None:
        pytest.skip(reason)
    monkeypatch.chdir(place)


@pytest.mark.xdist_group("commands")
@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.usefixtures("here")
def test_a_command_that_is_shown_is_taken(
    shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:

    def accepted(*_: Any, **__: Any) -> None:
        raise Accepted

    for module, name in (
        (compilation, "compile_model"),
        (compilation, "apply_plan"),
        (sweeping, "sweep"),
        (bench, "bench"),
        (scorecard, "fill_in"),
    ):
        monkeypatch.setattr(module, name, accepted)
    try:
        code = run(words_of(shown))
    except Accepted:
        code = 0
    assert code == 0, capsys.readouterr().err


@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.usefixtures("here")
def test_a_command_that_is_shown_does_its_work(
    shown: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not request.config.getoption("--really"):
        pytest.skip("make test-commands runs it, in a quarter of an hour")
    code = run(small_words(shown, tmp_path / "fresh"))
    assert code == 0, capsys.readouterr().err


def small_words(shown: str, out: Path) -> list[str]:
    """The command with sizes that tiny models have, and little text."""
    shown = re.sub(r'--data "?self\b(\{.*?\}")?', "--data self{tokens=2k,length=16}", shown)
    shown = shown.replace("MODEL", "moe") if "--prune experts" in shown else shown
    words = words_of(shown)
    if "-o" in words:
        words[words.index("-o") + 1] = str(out)
    small = {"--train-tokens": "2k", "--vocabulary": "280", "--seeds": "1", "--bytes": "2000", "--tokens": "64"}
    small |= {"--window": "16", "--stride": "16"}
    for at, word in enumerate(words[:-1]):
        words[at + 1] = small.get(word, words[at + 1])
        if word == "--target-params" and not words[at + 1].endswith("%"):
            words[at + 1] = "60%"
        if word == "--target-params" and "--prune vocabulary " in shown:
            words[at + 1] = "97%"  # bytes alone are most of so few tokens
    if words[:2] == ["compare", "MODEL"]:  # the others are above the tables that they printed
        words.remove("--dry-run")
        words[words.index("--targets") + 1] = "60%"
        words += ["--train-tokens", "0", "--bytes", "2000", "-o", str(out)]
    if words[0] in ("compile", "compare", "sweep"):
        words += ["--samples", "8", "--length", "16"]
    if "--pattern" in words and "--target-params" in words:
        words += ["--round-to", "4"]  # which is the default of larger widths
    trains = words[0] == "compile" and any(method in words for method in TRAINING)
    return [*words, "--train-tokens", "2k"] if trains else words


def words_of(shown: str) -> list[str]:
    """The command as it is run here: OUT is there where it is read, and not where it is written."""
    words = shlex.split(shown.replace("[KIND]", "methods"))
    if words[:2] == ["explain", "MODEL"]:
        words[2:] = ["model.layers.0.mlp.up_proj.weight:0", "model.layers.0.mlp.down_proj.weight:1"]
    if words[0] == "verify":
        words[1] = str(Path(words[1]).absolute())  # the suite's process for checks lives in another folder
    if "-o" in words:
        words[words.index("-o") + 1] = "fresh"
    if words[0] == "compare":
        words = [*words, "--dry-run"]
        return [word if word != "graphprune-eval" else "." for word in words]
    return words
