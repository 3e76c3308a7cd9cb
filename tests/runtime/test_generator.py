"""The generation loop over a real graph, token by token against the numpy reference."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from llama3_exporter import export
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile
from llama3_models.reference import forward
from llama3_runtime import FinishReason, Generator, Piece, SamplingParams, Tokenizer
from llama3_runtime.model import Model
from llama3_runtime.sequence import Sequence

from tests.support.llama_gguf import num_tokens, write_llama_gguf

CONTEXT = 48
PROMPT = "the cat sat"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    return write_llama_gguf(path, num_heads=8, num_kv_heads=2, context_length=CONTEXT)


@pytest.fixture(scope="module")
def folder(gguf: Path) -> Path:
    export(gguf, gguf.parent / "out", activations="float32")
    return gguf.parent / "out"


@pytest.fixture
def generator(folder: Path) -> Generator:
    return Generator.from_folder(folder, threads=1, max_length=CONTEXT, chunk_size=5)


@pytest.fixture(scope="module")
def greedy_ids(gguf: Path) -> list[int]:
    """Return the ids with which the reference continues the prompt, up to the end of the context."""
    with GGUFFile.open(gguf) as file:
        ids = Tokenizer.from_gguf(file).encode(PROMPT)
        start = len(ids)
        while len(ids) < CONTEXT:
            ids.append(int(forward(file, ids)[-1, : num_tokens("tiny")].argmax()))
    return ids[start:]


def greedy(**options: object) -> SamplingParams:
    return SamplingParams(temperature=0, **{"ignore_eos": True, **options})  # type: ignore[arg-type]


def test_greedy_tokens_are_the_reference_s(generator: Generator, greedy_ids: list[int]) -> None:
    """A prompt in chunks, then one token at a time, can fill the context to its last position."""
    ids = generator.tokenizer.encode(PROMPT)
    result = generator.generate(ids, greedy())
    assert (result.ids, result.finish_reason) == (greedy_ids, "length")
    assert generator.model.position == CONTEXT - 1  # the last token is not evaluated: nothing follows it


@pytest.mark.parametrize("count", [0, 1, 7])
def test_max_new_tokens_are_exact(generator: Generator, greedy_ids: list[int], count: int) -> None:
    ids = generator.tokenizer.encode(PROMPT)
    result = generator.generate(ids, greedy(max_new_tokens=count))
    assert (result.ids, result.finish_reason) == (greedy_ids[:count], "length")


def test_each_end_of_generation_token_ends_it(
    generator: Generator, greedy_ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every one does, not only eos, and the token itself is not part of the text."""
    ids = generator.tokenizer.encode(PROMPT)
    assert generator.tokenizer.eog_ids
    for position in (0, 4):
        token = greedy_ids[position]
        before = greedy_ids[: greedy_ids.index(token)]
        monkeypatch.setattr(Tokenizer, "eog_ids", frozenset({999, token}))
        result = generator.generate(ids, greedy(ignore_eos=False))
        assert (result.ids, result.finish_reason) == (before, "eos")
        assert generator.generate(ids, greedy()).ids == greedy_ids


def test_the_end_tokens_are_those_of_the_file(generator: Generator) -> None:
    """The vocabulary of this file names two by role."""
    with GGUFFile.open(generator.model.path.parent / "model.gguf") as file:
        expected = {file.get_int(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot")}
    assert generator.tokenizer.eog_ids == expected


def test_a_stop_text_across_tokens(generator: Generator, greedy_ids: list[int]) -> None:
    """The text ends before it, even if its characters come from different tokens."""
    whole = generator.generate(PROMPT, greedy()).text
    assert whole == generator.tokenizer.decode(greedy_ids)
    starts = (i for i in range(4, len(whole)) if whole.find(whole[i : i + 4]) == i)
    start = next(i for i in starts if whole[i : i + 4].isprintable())
    stop = whole[start : start + 4]
    result = generator.generate(PROMPT, greedy(stop=("never there", stop)))
    assert (result.text, result.finish_reason, result.stop) == (whole[:start], "stop", stop)


def test_a_prompt_that_fills_the_context_and_one_token_more(generator: Generator) -> None:
    """All positions can be used. One token more is an error with both numbers, and nothing is generated."""
    result = generator.generate([5] * CONTEXT, greedy())
    assert (result.ids, result.finish_reason) == ([], "length")
    assert len(generator.generate([5] * (CONTEXT - 1), greedy()).ids) == 1
    with pytest.raises(Llama3Error, match=f"{CONTEXT + 1} tokens, .* context of {CONTEXT} positions") as caught:
        generator.stream([5] * (CONTEXT + 1), greedy())
    assert "--max-length" not in str(caught.value)  # it cannot be raised


def test_progress_of_a_prompt(folder: Path) -> None:
    """It is reported from the start, chunk by chunk, and not for generated tokens."""
    seen: list[tuple[int, int]] = []
    with Generator.from_folder(folder, chunk_size=4, threads=1) as chunked:
        generation = chunked.stream([5] * 10, greedy(max_new_tokens=3), lambda done, total: seen.append((done, total)))
        assert seen == []
        assert len(list(generation)) == 3
    assert seen == [(0, 10), (4, 10), (8, 10), (10, 10)]


@pytest.mark.parametrize("prompt", [b"the cat", {5: 6}, [1.5], None])
def test_what_is_no_prompt(generator: Generator, prompt: object) -> None:
    with pytest.raises(TypeError):
        generator.stream(prompt)  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [[], [-1], [320], [3, 10**9]])
def test_ids_that_are_no_prompt(generator: Generator, ids: list[int]) -> None:
    with pytest.raises(Llama3Error, match="the prompt is empty" if not ids else r"token ids outside 0 \.\. 319"):
        generator.stream(ids, greedy())


def test_an_option_that_there_is_not(folder: Path) -> None:
    with pytest.raises(TypeError, match="thread"):
        Generator.from_folder(folder, thread=1)  # type: ignore[call-arg]


def test_numpy_ids_and_no_params(generator: Generator) -> None:
    """Token ids may be numpy integers, and all parameters have defaults."""
    result = generator.generate(np.array([5, 6, 7]))
    assert all(type(token) is int for token in result.ids)
    assert isinstance(generator.generate("a").text, str)


def test_a_piece_for_each_token(generator: Generator, greedy_ids: list[int]) -> None:
    """The pieces add up to the whole text, and the last one says why it ended."""
    generation = generator.stream(PROMPT, greedy())
    pieces = list(generation)
    assert [token for piece in pieces for token in piece.ids] == greedy_ids
    assert all(len(piece.ids) == 1 for piece in pieces)
    assert "".join(map(str, pieces)) == generator.tokenizer.decode(greedy_ids)
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert list(generation) == []
    result = generation.result()
    assert (result.text, result.ids) == ("".join(map(str, pieces)), greedy_ids)
    assert result.prompt_size == len(generator.tokenizer.encode(PROMPT))
    assert result.output_size == len(result.ids)
    assert 0 < result.tokenization_seconds < result.first_token_seconds
    assert result.generated_tokens_per_second == (len(greedy_ids) - 1) / result.generation_seconds


def test_an_unfinished_generation_keeps_the_cache(generator: Generator, greedy_ids: list[int]) -> None:
    """Two texts would mix in the cache, so the second one is an error until the first has ended."""
    first = generator.stream(PROMPT, greedy())
    ids = list(next(first).ids)
    second = generator.stream([9, 8, 7], greedy())
    for attempt in (lambda: next(second), lambda: generator.generate("a"), generator.warm_up):
        with pytest.raises(RuntimeError, match=r"an unfinished generation .* KV cache"):
            attempt()
    ids += [token for piece in first for token in piece.ids]
    assert ids == greedy_ids
    assert len(next(second).ids) == 1


@pytest.mark.parametrize("end", ["interrupt", "drop", "error"])
def test_an_unfinished_generation_leaves_the_generator_as_good_as_new(
    generator: Generator, greedy_ids: list[int], monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    ids = generator.tokenizer.encode(PROMPT)
    generation = generator.stream(ids[::-1], greedy())
    for _ in range(5):
        next(generation)
    if end == "interrupt":
        generation.interrupt()
    elif end == "drop":
        del generation
    else:
        with monkeypatch.context() as patch:
            patch.setattr(Model, "forward", lambda *_: next(iter([])))
            with pytest.raises(StopIteration):
                next(generation)
    assert generator.generate(ids, greedy()).ids == greedy_ids


def test_each_piece_may_be_asked_for_in_another_thread(generator: Generator, greedy_ids: list[int]) -> None:
    """The thread pool of a web server works like this."""
    generation = generator.stream(PROMPT, greedy())
    pieces = [in_a_thread(lambda: next(generation)) for _ in greedy_ids]
    assert [token for piece in pieces for token in piece.ids] == greedy_ids
    assert list(generation) == []


def test_an_interrupted_generation_keeps_what_had_come(generator: Generator, greedy_ids: list[int]) -> None:
    generation = generator.stream(PROMPT, greedy())
    texts = [next(generation).text for _ in range(3)]
    generation.interrupt()
    (rest,) = generation
    assert (rest.ids, rest.finish_reason) == ((), "interrupt")
    result = generation.result()
    assert (result.text, result.finish_reason) == ("".join([*texts, rest.text]), "interrupt")
    assert result.ids == greedy_ids[:3]
    assert generator.generate(PROMPT, greedy()).ids == greedy_ids


def test_a_prompt_may_be_interrupted_between_its_chunks(
    generator: Generator, greedy_ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = generator.stream([5] * 40, greedy())  # eight chunks
    lengths: list[int] = []
    forward = Model.forward

    def interrupted(self: Model, ids: list[int]) -> object:
        lengths.append(len(ids))
        if len(lengths) == 3:
            in_a_thread(generation.interrupt)
        return forward(self, ids)

    monkeypatch.setattr(Model, "forward", interrupted)
    (last,) = generation
    assert (last.text, last.ids, last.finish_reason) == ("", (), "interrupt")
    assert lengths == [5, 5, 5]
    assert generator.generate(PROMPT, greedy()).ids == greedy_ids


def in_a_thread(function: Callable[[], object]) -> object:
    """Call a function in a new thread, and return its result or its error after the thread has ended."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(function())
        except RuntimeError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def test_a_second_thread_while_the_first_is_between_two_tokens(generator: Generator, greedy_ids: list[int]) -> None:
    """The second thread cannot begin a text, with `generate` or `stream`, and the first one's text is right."""
    generation = generator.stream(PROMPT, greedy())
    ids = list(next(generation).ids)
    for attempt in (lambda: generator.generate("a"), lambda: next(generator.stream([5], greedy()))):
        assert "an unfinished generation" in str(in_a_thread(attempt))
    ids += [token for piece in generation for token in piece.ids]
    assert ids == greedy_ids
    assert in_a_thread(lambda: generator.generate(PROMPT, greedy()).ids) == greedy_ids


@pytest.mark.parametrize("attempt", ["generate", "warm_up", "next"])
def test_a_second_thread_while_the_first_computes(
    generator: Generator, greedy_ids: list[int], monkeypatch: pytest.MonkeyPatch, attempt: str
) -> None:
    """Every request of the second thread is an error, and the first one's text is right."""
    generation = generator.stream(PROMPT, greedy())
    attempts = {
        "generate": lambda: generator.generate([5]),
        "warm_up": generator.warm_up,
        "next": lambda: next(generation),
    }
    errors: list[object] = []
    forward = Model.forward

    def computing(self: Model, ids: list[int]) -> object:
        if threading.current_thread() is threading.main_thread():
            errors.append(in_a_thread(attempts[attempt]))
        return forward(self, ids)

    monkeypatch.setattr(Model, "forward", computing)
    assert [token for piece in generation for token in piece.ids] == greedy_ids
    assert len(errors) >= len(greedy_ids)
    used = "generation" if attempt == "next" else "model"
    assert all(f"another thread is using this {used}" in str(error) for error in errors)


def test_the_last_piece_of_an_interrupted_text_comes_once(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = generator.stream(PROMPT, greedy())
    next(generation)
    generation.interrupt()
    errors: list[object] = []
    finish = Sequence.finish

    def finishing(self: Sequence, reason: FinishReason) -> Piece:
        errors.append(in_a_thread(lambda: next(generation)))
        return finish(self, reason)

    monkeypatch.setattr(Sequence, "finish", finishing)
    assert [piece.finish_reason for piece in generation] == ["interrupt"]
    (error,) = errors
    assert "another thread is using this generation" in str(error)


def test_two_generators_of_one_model(generator: Generator, greedy_ids: list[int]) -> None:
    """They share its cache, so only one can generate at a time."""
    other = Generator(generator.model, generator.tokenizer)
    generation = generator.stream(PROMPT, greedy())
    ids = list(next(generation).ids)
    with pytest.raises(RuntimeError, match="an unfinished generation"):
        other.generate("a")
    assert ids + [token for piece in generation for token in piece.ids] == greedy_ids
    assert other.generate(PROMPT, greedy()).ids == greedy_ids


def test_closing_releases_the_model(folder: Path) -> None:
    with Generator.from_folder(folder, threads=1) as generator:
        session = weakref.ref(generator.model._ort)
        generation = generator.stream(PROMPT, greedy())
        next(generation)
    assert session() is None
    for attempt in (lambda: next(generation), lambda: generator.stream("a"), generator.warm_up):
        with pytest.raises(RuntimeError, match="this model was closed"):
            attempt()
    generator.close()


def test_closing_while_another_thread_computes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current step finishes, and the next one is an error."""
    generator = Generator.from_folder(folder, threads=1)
    closing = threading.Thread(target=generator.close)
    forward = Model.forward

    def closed(self: Model, ids: list[int]) -> object:
        closing.start()
        closing.join()
        while not generator.model.turns.closed:
            time.sleep(0.001)
        return forward(self, ids)

    monkeypatch.setattr(Model, "forward", closed)
    generation = generator.stream(PROMPT, greedy())
    assert len(next(generation).ids) == 1
    closing.join()
    with pytest.raises(RuntimeError, match="this model was closed"):
        next(generation)


def test_logits_that_are_no_numbers_name_the_model(tmp_path: Path) -> None:
    """Weights may be damaged in ways that no loader notices."""

    def weights(name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        return np.full(shape, np.nan, np.float32) if name == "output_norm.weight" else None

    gguf = write_llama_gguf(tmp_path / "model.gguf", num_layers=1, weights=weights)
    export(gguf, tmp_path / "out", ops="native", activations="float32")  # a contrib export would notice
    generator = Generator.from_folder(tmp_path / "out", threads=1)
    with pytest.raises(Llama3Error, match=f"^{tmp_path / 'out'}: the model's logits are NaN"):
        generator.generate("a", greedy())


def test_warming_up_leaves_no_trace(generator: Generator, greedy_ids: list[int]) -> None:
    generator.warm_up()
    assert generator.model.position == 0
    assert generator.generate(PROMPT, greedy()).ids == greedy_ids


def test_a_seed_repeats_the_text(generator: Generator) -> None:
    """Another seed produces another text."""
    texts = [generator.generate(PROMPT, SamplingParams(temperature=2.0, seed=seed)).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
