"""The graph, the checkpoint and the ONNX model of one decoder score alike, and as transformers' own forward says."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from graphprune.backends.onnx.backend import Onnx
from graphprune.errors import DataError, SourceError, UsageError
from graphprune.evaluation.generation import cut, greedy_texts, pad_left
from graphprune.evaluation.language_model import FACES, LanguageModel, faces_in, load_face, of_graph, of_onnx
from graphprune.evaluation.lm_eval_adapter import Harness
from graphprune.frontend.source import capture
from graphprune.running.likelihood import Continuation, Score, score_continuations
from graphprune.running.runners import graph_runner, shares_states
from tests.support import families
from tests.support.tiny_language import save_model, tokenizer

REQUESTS = [
    Continuation((1,), (5, 6, 7)),
    Continuation((1, 9, 10, 11, 12), (13,)),
    Continuation((1, 4), (8, 9, 10, 11, 12, 13, 14)),
    Continuation((1, 9, 10, 11, 12), (13,)),
    Continuation((1, 9, 10, 11), (12, 13)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = save_model(tmp_path_factory.mktemp("language") / "model")
    Onnx().export(capture(path), path)
    return path


@pytest.fixture(scope="module")
def faces(folder: Path) -> dict[str, LanguageModel]:
    return {face: load_face(str(folder), face) for face in FACES}


@pytest.fixture(scope="module")
def eager(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def brute_force(model: Any, request: Continuation) -> Score:
    """One text at a time, one token at a time."""
    total, greedy = 0.0, True
    for place in range(len(request.tokens)):
        text = request.context + request.tokens[:place]
        with torch.no_grad():
            last = model(torch.tensor([text])).logits[0, -1].double()
        total += float(last.log_softmax(-1)[request.tokens[place]])
        greedy &= int(last.argmax()) == request.tokens[place]
    return Score(total, greedy)


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("batch", [1, 2, 16])
def test_scores_equal_one_token_at_a_time(face: str, batch: int, faces: dict[str, LanguageModel], eager: Any) -> None:
    found = score_continuations(faces[face].logits, REQUESTS, batch)
    for score, request in zip(found, REQUESTS, strict=True):
        expected = brute_force(eager, request)
        assert score.log_probability == pytest.approx(expected.log_probability, abs=1e-4)
        assert score.greedy is expected.greedy


def test_a_greedy_continuation_is_recognised(faces: dict[str, LanguageModel], eager: Any) -> None:
    with torch.no_grad():
        first = int(eager(torch.tensor([[1, 5, 6]])).logits[0, -1].argmax())
        second = int(eager(torch.tensor([[1, 5, 6, first]])).logits[0, -1].argmax())
    other = (second + 1) % 30
    requests = [Continuation((1, 5, 6), (first, second)), Continuation((1, 5, 6), (first, other))]
    assert [score.greedy for score in score_continuations(faces["graph"].logits, requests, 4)] == [True, False]


def test_long_contexts_lose_their_oldest_tokens(faces: dict[str, LanguageModel]) -> None:
    whole = Continuation((1, *range(3, 20)), (20, 21))
    kept = Continuation(tuple(range(13, 20)), (20, 21))  # 8 input tokens: 7 and all of the continuation but its last
    logits = faces["graph"].logits
    long, short = score_continuations(logits, [whole], 1, 8), score_continuations(logits, [kept], 1)
    assert long[0].log_probability == pytest.approx(short[0].log_probability, abs=1e-6)
    with pytest.raises(DataError, match="9 tokens does not fit into the context of 8"):
        score_continuations(logits, [Continuation((1,), tuple(range(3, 12)))], 1, 8)
    with pytest.raises(DataError, match="a token before it"):
        Continuation((1,), ())


def test_equal_texts_run_once() -> None:
    rows: list[int] = []

    def logits(ids: torch.Tensor) -> torch.Tensor:
        rows.append(len(ids))
        return torch.zeros(*ids.shape, 30)

    seen: list[tuple[int, int]] = []
    scores = score_continuations(logits, REQUESTS, 2, progress=lambda done, of: seen.append((done, of)))
    assert sum(rows) == 4, "the fourth request is the second again"
    assert seen[-1] == (5, 5)
    assert scores[0].log_probability == pytest.approx(3 * -torch.tensor(30.0).log().item())


@pytest.mark.parametrize("name", ["llama", "gemma2", "falcon", "mamba", "falcon_h1", "qwen3_next"])
def test_a_context_that_several_follow_runs_once_and_scores_the_same(name: str) -> None:
    graph = families.graph(name)
    runner, sizes = graph_runner(graph), list[tuple[int, ...]]()

    def counted(ids: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, object]:
        sizes.append(tuple(ids.shape))
        return runner(ids, *rest)

    context = tuple(range(1, 21))
    apart = Continuation((*context, 3), (4,))
    requests = [*(Continuation(context, tuple(range(2, 3 + more))) for more in range(4)), apart]
    model = LanguageModel("graph", counted, tokenizer(), 64, 30, "float32", shares_states(graph))
    alone = score_continuations(model.logits, requests, 8)
    sizes.clear()
    together = score_continuations(model.logits, requests, 3, branches=model.branches)
    assert model.shares
    assert [rows for rows, _ in sizes] == [1, 3, 1, 1, 1], "the context, two batches of what follows, and the one apart"
    for one, other in zip(alone, together, strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)
        assert one.greedy is other.greedy


def test_sizes_and_types_are_read_off_each_face(faces: dict[str, LanguageModel]) -> None:
    read = {face: (model.context, model.vocabulary, model.dtype) for face, model in faces.items()}
    assert read == dict.fromkeys(FACES, (40, len(tokenizer()), "float32"))


@pytest.mark.parametrize("face", FACES)
def test_greedy_text_goes_through_the_cache(face: str, faces: dict[str, LanguageModel], eager: Any) -> None:
    prompts = [[1, 5, 6, 7], [1, 9], [1, 4, 3]]
    expected = []
    for prompt in prompts:
        text = torch.tensor([prompt])
        made = eager.generate(text, max_new_tokens=9, do_sample=False, pad_token_id=0)[0, len(prompt) :]
        expected.append(tokenizer().decode(made, skip_special_tokens=True))
    assert greedy_texts(faces[face], prompts, 9) == expected


def test_a_text_ends_before_its_first_stop_string(faces: dict[str, LanguageModel]) -> None:
    (free,) = greedy_texts(faces["graph"], [[1, 5, 6, 7]], 9)
    stop = free.split()[3]
    (ended,) = greedy_texts(faces["graph"], [[1, 5, 6, 7]], 9, [stop, "nothing of the kind"])
    assert ended == free[: free.index(stop)]
    assert cut("a.b?c", ["?", "."]) == "a"
    assert cut("abc", []) == "abc"
    ids, mask = pad_left([[5], [6, 7]])
    assert (ids.tolist(), mask.tolist()) == ([[0, 5], [6, 7]], [[0, 1], [1, 1]])


def instances(*arguments: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=each) for each in arguments]


def test_texts_are_split_into_tokens_as_lm_eval_splits_them(faces: dict[str, LanguageModel]) -> None:
    """Against lm-eval's own model for transformers, on contexts, empty contexts and trailing spaces."""
    pairs = [("The cat", " sees the dog"), ("", "They run"), ("who is ", "big"), ("<s> the cat", " runs")]
    own = instances(*pairs)
    theirs = reference(faces["checkpoint"])
    expected = theirs.loglikelihood(own, disable_tqdm=True)
    for face in FACES:
        found = Harness(faces[face], 2).loglikelihood(own)
        assert [each[0] for each in found] == pytest.approx([each[0] for each in expected], abs=1e-4)
        assert [each[1] for each in found] == [each[1] for each in expected]


def test_rolling_windows_equal_lm_evals(faces: dict[str, LanguageModel]) -> None:
    long = " ".join(["the cat sees a dog . who is not big ?"] * 9)
    own = instances((long,), ("They run",))
    expected = reference(faces["checkpoint"]).loglikelihood_rolling(own, disable_tqdm=True)
    for face in FACES:
        assert Harness(faces[face], 2).loglikelihood_rolling(own) == pytest.approx(expected, abs=1e-3)


def reference(model: LanguageModel) -> Any:
    """lm-eval's model for transformers around the same weights."""
    from lm_eval.models.huggingface import HFLM

    runner = model.runner
    eager = next(cell.cell_contents for cell in runner.__closure__ or () if hasattr(cell.cell_contents, "generate"))
    return HFLM(pretrained=eager, tokenizer=tokenizer(), batch_size=2, max_length=40)


def test_generation_serves_requests_by_their_options(faces: dict[str, LanguageModel]) -> None:
    seen: list[tuple[int, int]] = []
    harness = Harness(faces["onnx"], 2, lambda done, of: seen.append((done, of)))
    short, long = {"until": ["."], "max_gen_toks": 3}, {"until": "?", "max_gen_toks": 6, "do_sample": False}
    texts = harness.generate_until(instances(("the cat", short), ("A dog", long), ("who is the big cat", short)))
    assert [len(text.split()) for text in texts] == pytest.approx([3, 6, 3], abs=3)
    assert texts[1] == greedy_texts(faces["graph"], [tokenizer().encode("A dog")], 6, ["?"])[0]
    assert seen[-1] == (3, 3)
    with pytest.raises(UsageError, match="greedy"):
        harness.generate_until(instances(("the", {"do_sample": True, "temperature": 0.7})))


def test_what_is_no_language_model_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="no language model"):
        of_graph(families.graph("bert"))
    with pytest.raises(UsageError, match="pass the tokenizer"):
        of_graph(families.graph("llama"))
    with pytest.raises(UsageError, match="holds no ONNX model; compile with --backends"):
        of_onnx(tmp_path)
    with pytest.raises(UsageError, match="no folder at"):
        load_face(str(tmp_path / "none"), "onnx")
    with pytest.raises(SourceError, match="no folder at"):
        faces_in(str(tmp_path / "none"))
    assert faces_in(str(folder)) == FACES
    assert faces_in("demo") == ("graph", "checkpoint")


@pytest.fixture(autouse=True)
def no_bars() -> Iterator[None]:
    """transformers' progress bars would go into the report."""
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()
