"""The generation loop over a real graph, token by token against the numpy reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from llama3_exporter import export
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile
from llama3_models.reference import forward
from llama3_runtime import Generator, SamplingParams, Tokenizer

from tests.support.llama_gguf import write_llama_gguf

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
    """What the reference continues the prompt with, up to the end of the context."""
    with GGUFFile.open(gguf) as file:
        ids = Tokenizer.from_gguf(file).encode(PROMPT)
        start = len(ids)
        while len(ids) < CONTEXT:
            ids.append(int(forward(file, ids)[-1].argmax()))
    return ids[start:]


def greedy(**options: object) -> SamplingParams:
    return SamplingParams(temperature=0, **{"ignore_eos": True, **options})  # type: ignore[arg-type]


def test_greedy_tokens_are_the_reference_s(generator: Generator, greedy_ids: list[int]) -> None:
    """A prompt in chunks, then a token at a time, to the last position of the context."""
    ids = generator.tokenizer.encode(PROMPT)
    assert list(generator.stream_ids(ids, greedy())) == greedy_ids
    assert generator.finish_reason == "length"
    assert generator.model.position == CONTEXT - 1  # the last token is not evaluated, since nothing follows it


@pytest.mark.parametrize("count", [0, 1, 7])
def test_max_new_tokens_are_exact(generator: Generator, greedy_ids: list[int], count: int) -> None:
    ids = generator.tokenizer.encode(PROMPT)
    assert list(generator.stream_ids(ids, greedy(max_new_tokens=count))) == greedy_ids[:count]
    assert generator.finish_reason == "length"


def test_each_end_of_generation_token_ends_it(
    generator: Generator, greedy_ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not eos alone; and the token itself is no part of the text."""
    ids = generator.tokenizer.encode(PROMPT)
    assert generator.tokenizer.eog_ids
    for position in (0, 4):
        token = greedy_ids[position]
        before = greedy_ids[: greedy_ids.index(token)]
        monkeypatch.setattr(Tokenizer, "eog_ids", frozenset({999, token}))
        assert list(generator.stream_ids(ids, greedy(ignore_eos=False))) == before
        assert generator.finish_reason == "eos"
        assert list(generator.stream_ids(ids, greedy())) == greedy_ids


def test_the_end_tokens_are_those_of_the_file(generator: Generator) -> None:
    """The vocabulary of this file names two by their roles, whatever generation makes of them."""
    with GGUFFile.open(generator.model.path.parent / "model.gguf") as file:
        expected = {file.get_int(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot")}
    assert generator.tokenizer.eog_ids == expected


def test_a_stop_text_across_tokens(generator: Generator, greedy_ids: list[int]) -> None:
    """The text ends before it, however the tokens cut it."""
    whole = "".join(generator.stream(PROMPT, greedy()))
    assert whole == generator.tokenizer.decode(greedy_ids)
    starts = (i for i in range(4, len(whole)) if whole.find(whole[i : i + 4]) == i)
    start = next(i for i in starts if whole[i : i + 4].isprintable())
    stop = whole[start : start + 4]
    pieces = list(generator.stream(PROMPT, greedy(stop=("never there", stop))))
    assert "".join(pieces) == whole[:start]
    assert generator.finish_reason == "stop"


def test_a_prompt_that_fills_the_context_and_one_token_more(generator: Generator) -> None:
    """All positions can be used; beyond, the message has the three numbers and nothing is generated."""
    assert list(generator.stream_ids([5] * CONTEXT, greedy())) == []
    assert generator.finish_reason == "length"
    assert len(list(generator.stream_ids([5] * (CONTEXT - 1), greedy()))) == 1
    with pytest.raises(Llama3Error, match=f"{CONTEXT + 1} tokens.*max-length {CONTEXT} .*context is {CONTEXT}"):
        generator.stream_ids([5] * (CONTEXT + 1), greedy())


@pytest.mark.parametrize("ids", [[], [-1], [320], [3, 10**9]])
def test_ids_that_are_no_prompt(generator: Generator, ids: list[int]) -> None:
    with pytest.raises(Llama3Error, match="the prompt has"):
        generator.stream_ids(ids, greedy())


def test_an_option_that_there_is_not(folder: Path) -> None:
    with pytest.raises(TypeError, match="thread"):
        Generator.from_folder(folder, thread=1)  # type: ignore[call-arg]


def test_numpy_ids_and_no_params(generator: Generator) -> None:
    """Token ids come from anywhere, and the defaults are defaults."""
    tokens = list(generator.stream_ids(np.array([5, 6, 7])))
    assert all(type(token) is int for token in tokens)
    assert isinstance("".join(generator.stream("a")), str)


def test_a_stream_whose_cache_was_taken_says_so(generator: Generator, greedy_ids: list[int]) -> None:
    """Two texts at once would mix in the one cache: the earlier one ends with an error, the later one is right."""
    ids = generator.tokenizer.encode(PROMPT)
    first = generator.stream_ids([9, 8, 7], greedy())
    next(first)
    unstarted = generator.stream_ids([9, 8], greedy())
    second = generator.stream_ids(ids, greedy())
    assert next(second) == greedy_ids[0]
    for earlier in (first, unstarted):
        with pytest.raises(RuntimeError, match="a later generation has taken"):
            next(earlier)
    assert list(second) == greedy_ids[1:]


def test_a_stream_that_was_overtaken_says_nothing_of_the_later_one(generator: Generator) -> None:
    """Also after its last token: how it ended is no news of the other."""
    first = generator.stream_ids([9, 8, 7], greedy(max_new_tokens=1))
    next(first)
    generator.stream_ids([9, 8], greedy())
    with pytest.raises(RuntimeError, match="a later generation has taken"):
        next(first)
    assert generator.finish_reason is None


def test_an_unfinished_stream_leaves_the_generator_as_good_as_new(generator: Generator, greedy_ids: list[int]) -> None:
    ids = generator.tokenizer.encode(PROMPT)
    stream = generator.stream_ids(ids[::-1], greedy())
    for _ in range(5):
        next(stream)
    assert list(generator.stream_ids(ids, greedy())) == greedy_ids


def test_logits_that_are_no_numbers_name_the_model(tmp_path: Path) -> None:
    """Weights may be damaged in ways that no loader sees."""

    def weights(name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        return np.full(shape, np.nan, np.float32) if name == "output_norm.weight" else None

    gguf = write_llama_gguf(tmp_path / "model.gguf", num_layers=1, weights=weights)
    export(gguf, tmp_path / "out", activations="float32")
    generator = Generator.from_folder(tmp_path / "out", threads=1)
    with pytest.raises(Llama3Error, match=f"^{tmp_path / 'out'}: the model's logits are NaN"):
        list(generator.stream("a", greedy()))


def test_warming_up_leaves_no_trace(generator: Generator, greedy_ids: list[int]) -> None:
    generator.warm_up()
    assert generator.model.position == 0
    assert list(generator.stream_ids(generator.tokenizer.encode(PROMPT), greedy())) == greedy_ids


def test_a_seed_repeats_the_text(generator: Generator) -> None:
    """And another one gives another text."""
    texts = ["".join(generator.stream(PROMPT, SamplingParams(temperature=2.0, seed=seed))) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_tokenizer_of_another_model_is_refused(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """One with more tokens than there are logits cannot belong."""
    monkeypatch.setattr(Tokenizer, "vocab_size", 321)
    with pytest.raises(Llama3Error, match="the tokenizer has 321 tokens and the model 320"):
        Generator(generator.model, generator.tokenizer)
