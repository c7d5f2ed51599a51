"""The graph, the checkpoint and the ONNX model of one decoder score alike, and as transformers' own forward says."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from graphprune.backends.onnx.backend import Onnx
from graphprune.errors import DataError, SourceError, UsageError
from graphprune.evaluation.generation import cut, greedy_texts, pad_left
from graphprune.evaluation.language_model import FACES, LanguageModel, faces_in, load_face, of_graph, of_onnx, reader_of
from graphprune.evaluation.lm_eval_adapter import Harness
from graphprune.frontend.source import capture
from graphprune.ir.graph import Graph
from graphprune.running.likelihood import Continuation, Reader, Score, score_continuations
from graphprune.running.runners import graph_runner
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
    found = score_continuations(faces[face].reader, REQUESTS, batch)
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
    assert [score.greedy for score in score_continuations(faces["graph"].reader, requests, 4)] == [True, False]


def test_long_contexts_lose_their_oldest_tokens(faces: dict[str, LanguageModel]) -> None:
    whole = Continuation((1, *range(3, 20)), (20, 21))
    kept = Continuation(tuple(range(13, 20)), (20, 21))  # 8 input tokens: 7 and all of the continuation but its last
    reader = faces["graph"].reader
    long, short = score_continuations(reader, [whole], 1, 8), score_continuations(reader, [kept], 1)
    assert long[0].log_probability == pytest.approx(short[0].log_probability, abs=1e-6)
    with pytest.raises(DataError, match="9 tokens does not fit into the context of 8"):
        score_continuations(reader, [Continuation((1,), tuple(range(3, 12)))], 1, 8)
    with pytest.raises(DataError, match="a token before it"):
        Continuation((1,), ())


def test_equal_texts_run_once() -> None:
    rows: list[int] = []

    def runner(ids: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, None]:
        rows.append(len(ids))
        return torch.zeros(*ids.shape, 30), None

    seen: list[tuple[int, int]] = []
    scores = score_continuations(Reader(runner), REQUESTS, 2, progress=lambda done, of: seen.append((done, of)))
    assert sum(rows) == 4, "the fourth request is the second again"
    assert seen[-1] == (5, 5)
    assert scores[0].log_probability == pytest.approx(3 * -torch.tensor(30.0).log().item())


@pytest.mark.parametrize("name", ["llama", "gemma2", "falcon", "mamba", "falcon_h1", "qwen3_next"])
def test_what_several_texts_begin_with_runs_once_and_scores_the_same(name: str) -> None:
    """Against one text at a time, with starts of one batch that differ in length, and with parts of them scored."""
    graph, sizes = families.graph(name), list[tuple[int, ...]]()
    context, other = tuple(range(1, 21)), tuple(range(22, 4, -1))
    endings = [tuple(range(2, 4 + more)) for more in range(4)]
    requests = [Continuation(context, ending) for ending in endings]
    requests += [Continuation(other, ending) for ending in endings[::-2]]
    requests += [Continuation((9,), (*other, *ending)) for ending in endings[:2]]
    requests += [Continuation((5, 5), (4,))]
    alone = [score_continuations(plain(graph), [request], 1)[0] for request in requests]
    together = score_continuations(counted(reader_of(graph), sizes), requests, 5)
    assert sizes[0] == (3, 19), "three starts in one batch, as long as the shortest"
    assert sizes[-1] == (1, 2), "what begins like no other is read whole"
    for one, both in zip(alone, together, strict=True):
        assert one.log_probability == pytest.approx(both.log_probability, abs=1e-4)
        assert one.greedy is both.greedy


def test_a_model_that_does_not_go_on_alike_reads_whole_texts() -> None:
    graph, sizes = families.graph("llama"), list[tuple[int, ...]]()
    requests = [Continuation(tuple(range(1, 21)), tuple(range(2, 4 + more))) for more in range(3)]
    reader = counted(reader_of(graph), sizes)

    def forget(past: object, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        assert isinstance(past, dict)
        return {name: torch.zeros_like(state[rows]) for name, state in past.items()}

    wrong = replace(reader, select=forget)
    expected = [score_continuations(plain(graph), [request], 1)[0] for request in requests]
    for one, both in zip(expected, score_continuations(wrong, requests, 4), strict=True):
        assert one.log_probability == pytest.approx(both.log_probability, abs=1e-4)
    assert max(length for _, length in sizes) == 23, "all of the longest text but its last token"


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "mamba"])
def test_logits_are_made_where_they_are_asked_for_alone(name: str) -> None:
    graph = families.graph(name)
    reader, tokens = reader_of(graph), list[int]()
    assert reader.head is not None

    def head(features: torch.Tensor) -> torch.Tensor:
        assert reader.head is not None
        tokens.append(len(features))
        return reader.head(features)

    requests = [Continuation((1, 2, 3), (4, 5)), Continuation((6, 7, 8, 9), (3,))]
    found = score_continuations(replace(reader, head=head), requests, 4)
    assert sum(tokens) == 3
    for one, other in zip(found, score_continuations(plain(graph), requests, 4), strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)


def plain(graph: Graph) -> Reader:
    """The graph as it reads whole texts, with the logits of all tokens."""
    return Reader(graph_runner(graph))


def counted(reader: Reader, sizes: list[tuple[int, ...]]) -> Reader:
    """The reader, which tells how many rows of how many tokens it read."""

    def runner(ids: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, object]:
        sizes.append(tuple(ids.shape))
        return reader.runner(ids, *rest)

    return replace(reader, runner=runner)


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
