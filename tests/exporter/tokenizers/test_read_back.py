"""An export's tokenizer is read back: it matches the GGUF's, or a warning names the differences."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from gguf import TokenType
from llama3_exporter.tokenizers.json_files import tokenizer_config, tokenizer_json
from llama3_exporter.tokenizers.read_back import check_tokenizer, why_unusable
from llama3_models.tokenizer.byte_alphabet import CHARACTER_OF_BYTE
from llama3_models.tokenizer.files import read_vocabulary
from llama3_models.tokenizer.vocabulary import SentencePieceBPE, Vocabulary
from llama3_runtime.text.tokenizer import Tokenizer
from tokenizers import Tokenizer as HuggingFaceTokenizer

from tests.support.llama_gguf import write_llama_gguf
from tests.support.vocabularies import (
    smollm2_gguf,
    write_llama3_gguf,
    write_qwen3_gguf,
    write_sentencepiece_gguf,
    write_vocabulary_gguf,
)

GGUFS: dict[str, Callable[[Path], Path]] = {
    "tiny": lambda path: write_llama_gguf(path, num_layers=1),
    "qwen2": lambda path: write_llama_gguf(path, tokenizer="qwen2", vocab_size=1000, num_layers=1),
    "llama3": lambda path: write_llama3_gguf(path, eot_token_id=128_009),
    "smollm2": lambda _: smollm2_gguf(),
    "qwen3": write_qwen3_gguf,
    "sentencepiece": write_sentencepiece_gguf,
    "sentencepiece without a space": lambda path: write_sentencepiece_gguf(path, add_space_prefix=False),
}


def written(folder: Path, vocabulary: Vocabulary, change: Callable[[dict[str, Any]], object] | None = None) -> Path:
    """Write the tokenizer files of an export, after changing them."""
    files = {
        "tokenizer.json": tokenizer_json(vocabulary),
        "tokenizer_config.json": tokenizer_config(vocabulary),
        "generation_config.json": {"eos_token_id": sorted(vocabulary.eog_ids)},
    }
    if change is not None:
        change(files)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", GGUFS)
def test_vocabularies_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    vocabulary = read_vocabulary(GGUFS[name](tmp_path / "model.gguf"))
    assert check_tokenizer(written(tmp_path / "out", vocabulary), vocabulary) == (None, None)


def swap_merges(files: dict[str, Any]) -> None:
    merges = files["tokenizer.json"]["model"]["merges"]
    merges[4], merges[7] = merges[7], merges[4]  # "e r" and "r e"


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a merge": (swap_merges, "its merges; the ids of 'The quick"),
    "a token": (
        lambda files: files["tokenizer.json"]["model"]["vocab"].update(q=900),
        r"token 113 \('q'\) and 1 more; the ids of 'The quick",
    ),
    "a type": (
        lambda files: files["tokenizer.json"]["added_tokens"][2].update(special=False),
        r"token 270 \('<\|eot_id\|>'\); the ids of '<\|begin_of_text\|><\|eot_id\|>.*' differ",
    ),
    "a special token": (
        lambda files: files["tokenizer.json"]["added_tokens"][1].update(content="<|end|>"),
        r"token 269 \('<\|end_of_text\|>'\); the ids of '<\|end_of_text\|>' differ",
    ),
    "an end": (lambda files: files["generation_config.json"].update(eos_token_id=[269]), "end-of-generation tokens$"),
    "the first token": (
        lambda files: files["tokenizer_config.json"].update(bos_token="<|eot_id|>"),
        "its beginning-of",
    ),
    "whether it is first": (
        lambda files: files["tokenizer_config.json"].update(add_bos_token=False),
        "begins with a beginning-of-sequence token;",
    ),
    "the template": (lambda files: files["tokenizer_config.json"].update(chat_template="x"), "its chat template$"),
    "the normalizer": (lambda files: files["tokenizer.json"].update(normalizer={"type": "NFC"}), "splits text.*Å"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_said_otherwise_is_named(name: str, tmp_path: Path) -> None:
    change, expected = CHANGES[name]
    vocabulary = read_vocabulary(write_llama_gguf(tmp_path / "model.gguf", num_layers=1))
    problem, warning = check_tokenizer(written(tmp_path / "out", vocabulary, change), vocabulary)
    assert problem is None
    assert warning is not None
    assert re.search(expected, warning)


def test_a_run_of_bytes_that_no_token_has(tmp_path: Path) -> None:
    """It becomes one unknown token, or one per byte, as in Hugging Face's tokenizers with the same two files."""
    tokens = [*(letter for byte, letter in CHARACTER_OF_BYTE.items() if byte < 0x80), "ab", "<unk>"]
    types = [*[TokenType.NORMAL] * 129, TokenType.UNKNOWN]
    path = write_vocabulary_gguf(
        tmp_path / "m.gguf", model="gpt2", pre="gpt-2", tokens=tokens, types=types, merges=["a b"], unknown_token_id=129
    )
    vocabulary = read_vocabulary(path)
    same = written(tmp_path / "same", vocabulary)
    fused = written(
        tmp_path / "fused", vocabulary, lambda files: files["tokenizer.json"]["model"].update(fuse_unk=True)
    )
    ids = [tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode("é").ids for folder in (same, fused)]
    assert ids == [[129, 129], [129]]
    assert check_tokenizer(same, vocabulary) == (None, None)
    problem, warning = check_tokenizer(fused, vocabulary)
    assert problem is None
    assert re.search("differs in whether a run of unknown bytes .*; the ids of '", str(warning))


def test_scores_of_equal_height_cannot_be_said(tmp_path: Path) -> None:
    """The merges of a tokenizer.json are in an order, so no two are equal."""
    vocabulary = read_vocabulary(write_sentencepiece_gguf(tmp_path / "model.gguf"))
    assert isinstance(vocabulary.model, SentencePieceBPE)
    scores = [float(round(score / 9)) for score in vocabulary.model.scores]
    vocabulary = replace(vocabulary, model=replace(vocabulary.model, scores=scores))
    problem, warning = check_tokenizer(written(tmp_path / "out", vocabulary), vocabulary)
    assert problem is None
    assert "the order of its scores" in str(warning)


@pytest.mark.parametrize("merges", [["b c", "a b"], ["a b", "xy c"]], ids=["of a byte", "that never happens"])
def test_merges_of_what_is_no_token_are_refused_elsewhere(tmp_path: Path, merges: list[str]) -> None:
    """Hugging Face's tokenizers do not load the file."""
    tokens = [*CHARACTER_OF_BYTE.values(), "ab", "bc", "xyc"]
    if merges[0] == "b c":
        tokens.remove("a")
    path = write_vocabulary_gguf(tmp_path / "model.gguf", model="gpt2", tokens=tokens, merges=merges, pre="gpt-2")
    vocabulary = read_vocabulary(path)
    folder = written(tmp_path / "out", vocabulary)
    with pytest.raises(Exception, match="out of vocabulary"):
        HuggingFaceTokenizer.from_file(str(folder / "tokenizer.json"))
    problem, warning = check_tokenizer(folder, vocabulary)
    assert problem is None
    assert "which is not a token; Hugging Face's tokenizers" in str(warning)


def test_a_file_that_cannot_be_read_back_is_a_problem(tmp_path: Path) -> None:
    vocabulary = read_vocabulary(write_llama_gguf(tmp_path / "model.gguf", num_layers=1))
    folder = written(tmp_path / "out", vocabulary, lambda files: files["tokenizer.json"].update(pre_tokenizer=None))
    problem, warning = check_tokenizer(folder, vocabulary)
    assert "llama3-run cannot use this export's tokenizer and needs --tokenizer-path" in str(problem)
    assert warning is None


def test_nothing_is_logged_of_texts_that_no_user_gave(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Assumptions about the vocabulary are not logged either: the summary and the page report them as notes."""
    letters = [character for character in map(chr, range(0x21, 0x7F)) if character != "I"]
    path = write_vocabulary_gguf(tmp_path / "model.gguf", model="gpt2", tokens=[*letters, "()"], merges=["( )"])
    vocabulary = read_vocabulary(path)
    assert vocabulary.warnings
    folder = written(tmp_path / "out", vocabulary, lambda files: files["tokenizer.json"]["model"]["vocab"].pop("z"))
    problem, warning = check_tokenizer(folder, vocabulary)
    assert problem is None
    assert "the ids of" in str(warning)
    assert why_unusable(vocabulary) is None
    assert caplog.messages == []
    Tokenizer.from_path(path).encode("I")
    assert len(caplog.messages) == 2
