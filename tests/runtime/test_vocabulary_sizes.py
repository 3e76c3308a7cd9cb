"""A model may have more rows than its tokenizer has tokens, or fewer: ids without a token are never chosen."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import TokenType
from llama3_exporter import export
from llama3_models.errors import Llama3Error
from llama3_models.exports import Ops
from llama3_models.gguf.file import GGUFFile
from llama3_models.reference import forward
from llama3_models.tokenizer.vocabulary import ByteLevelBPE
from llama3_runtime import Generator, SamplingParams, Tokenizer, load

from tests.support.llama_gguf import num_tokens, write_llama_gguf
from tests.support.vocabularies import write_vocabulary_gguf

TOKENS = num_tokens("tiny")  # 271
ROWS = 400
SIZES = {"hidden_size": 64, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 64}
SAMPLED = SamplingParams(temperature=50.0, min_p=0.0, seed=1, max_new_tokens=60, ignore_eos=True)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA3_CACHE", str(tmp_path / "cache"))


def draws(generator: Generator) -> set[int]:
    """Draw ids at a temperature that makes all about equally likely; 129 of the 400 rows do not have a token."""
    return set(generator.generate("the", SAMPLED).ids)


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_a_padded_embedding(tmp_path: Path, ops: Ops) -> None:
    """Greedy ids are the numpy reference's without the padding, although padding sometimes has the largest logit."""
    gguf = write_llama_gguf(tmp_path / "model.gguf", vocab_size=TOKENS, num_rows=ROWS, **SIZES)
    folder = export(gguf, tmp_path / "out", ops=ops, activations="float32").output
    with Generator.from_folder(folder, max_length=64) as generator:
        prompt = generator.tokenizer.encode("the rain")
        found = generator.generate(prompt, SamplingParams(temperature=0, max_new_tokens=20, ignore_eos=True)).ids
        assert max(draws(generator)) < TOKENS
    with GGUFFile.open(gguf) as file:
        ids, padding_won = prompt, False
        for _ in range(20):
            row = forward(file, ids)[-1]
            ids = [*ids, int(row[:TOKENS].argmax())]
            padding_won |= int(row.argmax()) >= TOKENS
    assert found == ids[len(prompt) :]
    assert padding_won


@pytest.fixture
def no_tokenizer(tmp_path: Path) -> Path:
    return write_llama_gguf(tmp_path / "model.gguf", vocab_size=ROWS, tokenizer=None, **SIZES)


@pytest.fixture
def tiny_tokenizer(tmp_path: Path) -> Path:
    return write_llama_gguf(tmp_path / "tokenizer.gguf", vocab_size=TOKENS, **SIZES)


def test_a_smaller_tokenizer(no_tokenizer: Path, tiny_tokenizer: Path, caplog: pytest.LogCaptureFixture) -> None:
    with load(no_tokenizer, tokenizer=tiny_tokenizer, max_length=64) as generator:
        assert max(draws(generator)) < TOKENS
        draws(generator)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert f"{tiny_tokenizer}: this tokenizer has only 271 tokens" in warning
    assert f"{no_tokenizer} has 400 rows" in warning


def test_a_tokenizer_a_little_smaller_is_usual(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf", vocab_size=TOKENS, num_rows=TOKENS + 9, **SIZES)
    load(gguf, max_length=8).close()
    assert not caplog.records


def test_a_larger_tokenizer_is_refused(tmp_path: Path, no_tokenizer: Path) -> None:
    larger = write_llama_gguf(tmp_path / "qwen.gguf", vocab_size=1000, tokenizer="qwen2", **SIZES)
    numbers = f"{num_tokens('qwen2')} tokens, but the model {no_tokenizer} has only {ROWS} rows"
    with pytest.raises(Llama3Error, match=f"{larger}: this tokenizer has {numbers}"):
        load(no_tokenizer, tokenizer=larger, max_length=64)


def test_unused_tokens_beyond_the_rows_are_no_harm(tmp_path: Path) -> None:
    padded = write_llama_gguf(tmp_path / "padded.gguf", vocab_size=1000, **SIZES)
    model = write_llama_gguf(tmp_path / "model.gguf", vocab_size=300, tokenizer=None, **SIZES)
    with load(model, tokenizer=padded, max_length=64) as generator:
        assert max(draws(generator)) < TOKENS


def test_which_ids_have_a_token(tmp_path: Path) -> None:
    """Unused tokens do not count, unless they end the text. Neither does a normal token without text."""
    tokens = ["a", "b", "", "unused", "<end>", "ab"]
    types = [TokenType.NORMAL] * 3 + [TokenType.UNUSED] * 2 + [TokenType.NORMAL]
    path = write_vocabulary_gguf(
        tmp_path / "a.gguf", model="gpt2", tokens=tokens, types=types, merges=["a b"], pre="gpt-2", eos_token_id=4
    )
    expected = [True, True, False, False, True, True]
    np.testing.assert_array_equal(Tokenizer.from_path(path).has_token, expected)


def test_a_vocabulary_of_unused_tokens_alone_forbids_nothing(tiny_tokenizer: Path) -> None:
    tiny = Tokenizer.from_path(tiny_tokenizer).vocabulary
    assert isinstance(tiny.model, ByteLevelBPE)
    model = replace(tiny.model, merges=[])
    unused = replace(tiny, types=[TokenType.UNUSED] * len(tiny.types), model=model, eog_ids=frozenset())
    assert Tokenizer(unused).has_token.all()
