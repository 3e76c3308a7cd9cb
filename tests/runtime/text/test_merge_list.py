"""Vocabularies that tiktoken cannot handle, or without all bytes, merge as in Hugging Face's library and llama.cpp."""

import contextlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from gguf import TokenType
from llama3_exporter.tokenizers.json_files import tokenizer_json
from llama3_models.tokenizer.byte_alphabet import CHARACTER_OF_BYTE, spell_bytes
from llama3_models.tokenizer.byte_ranks import tiktoken_ranks
from llama3_models.tokenizer.files import read_vocabulary
from llama3_models.tokenizer.vocabulary import ByteLevelBPE
from llama3_models.tokenizer.vocabulary import TokenType as OurType
from llama3_runtime.text.tokenizer import Tokenizer
from tokenizers import models, pre_tokenizers

from tests.support.vocabularies import hugging_face_bpe, hugging_face_ids, write_vocabulary_gguf

BYTES = list(CHARACTER_OF_BYTE.values())
ASCII = [letter for byte, letter in CHARACTER_OF_BYTE.items() if byte < 0x80]

# Both expressions keep a run of these letters as one piece, with a space before it.
LETTERS = "abc"


def random_vocabulary(rng: random.Random) -> tuple[list[str], list[str]]:
    """Make random tokens and merges: several pairs per token, tokens that no merge forms, pairs that come too early."""
    tokens: list[str] = []
    merges: list[str] = []
    while len(merges) < rng.randint(1, 14):
        left, right = (rng.choice([*LETTERS, "Ġ", *tokens]) for _ in range(2))
        if len(left + right) <= 7 and f"{left} {right}" not in merges and "Ġ" not in right:
            merges.append(f"{left} {right}")
            tokens.append(left + right)
    tokens += ["".join(rng.choices(LETTERS, k=rng.randint(2, 5))) for _ in range(rng.randint(0, 4))]
    if rng.random() < 0.8:
        rng.shuffle(merges)
    tokens = list(dict.fromkeys(tokens))
    rng.shuffle(tokens)
    return [*BYTES, *tokens], merges


def random_texts(rng: random.Random, count: int) -> list[str]:
    return [" ".join("".join(rng.choices(LETTERS, k=rng.randint(1, 9))) for _ in range(4)) for _ in range(count)]


def oracle_of(tokens: Sequence[str], merges: Sequence[str], *, ignore_merges: bool) -> tokenizers.Tokenizer:
    oracle = hugging_face_bpe(tokens, merges, ignore_merges=ignore_merges)
    oracle.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return oracle


def read_back(path: Path) -> Tokenizer:
    """Read the tokenizer from the export's tokenizer.json."""
    written = path.with_name("tokenizer.json")
    written.write_text(json.dumps(tokenizer_json(read_vocabulary(path))), encoding="utf-8")
    return Tokenizer.from_path(written)


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe"])
def test_any_list_of_merges_is_followed(tmp_path: Path, pre: str) -> None:
    """The GGUF, its export and llama.cpp all have Hugging Face's ids."""
    llama_cpp_oracle: Any = None
    with contextlib.suppress(ModuleNotFoundError):
        from tests.support import llama_cpp_oracle
    rng = random.Random(11)
    without_ranks = 0
    for number in range(150):
        tokens, merges = random_vocabulary(rng)
        path = tmp_path / "m.gguf"
        write_vocabulary_gguf(path, model="gpt2", tokens=tokens, merges=merges, pre=pre, add_bos_token=False)
        vocabulary = read_vocabulary(path)
        assert isinstance(vocabulary.model, ByteLevelBPE)
        without_ranks += tiktoken_ranks(vocabulary.ids_by_text(OurType.NORMAL), vocabulary.model, path) is None
        texts = random_texts(rng, 10)
        expected = hugging_face_ids(oracle_of(tokens, merges, ignore_merges=pre == "llama-bpe"), texts, special=False)
        for tokenizer in (Tokenizer(vocabulary), read_back(path)):
            assert [tokenizer.encode(text) for text in texts] == expected, (tokens[256:], merges)
        if llama_cpp_oracle is not None and number < 40:
            assert llama_cpp_oracle.tokenize(path, texts) == expected, (tokens[256:], merges)
    assert without_ranks > 12


@pytest.mark.parametrize(
    ("tokens", "pre", "expected"),
    [
        (["ab"], "llama-bpe", {"ab": [256], "cab": [99, 97, 98]}),  # only a whole piece becomes "ab"
        (["ab", "bc"], "gpt-2", {"abc": [97, 98, 99]}),
    ],
)
def test_tokens_that_two_make_up_and_no_merge_forms(
    tmp_path: Path, tokens: list[str], pre: str, expected: dict[str, list[int]]
) -> None:
    in_order = [CHARACTER_OF_BYTE[byte] for byte in range(256)]
    path = write_vocabulary_gguf(
        tmp_path / "m.gguf", model="gpt2", tokens=[*in_order, *tokens, "()"], merges=["( )"], pre=pre
    )
    for tokenizer in (Tokenizer.from_path(path), read_back(path)):
        assert {text: tokenizer.encode(text, bos=False) for text in expected} == expected


def test_a_long_piece_takes_linear_time(tmp_path: Path) -> None:
    tokens, merges = [*BYTES, "aa", "aaaa", "aaa"], ["aa aa", "a a"]
    path = write_vocabulary_gguf(tmp_path / "m.gguf", model="gpt2", tokens=tokens, merges=merges, pre="llama-bpe")
    assert Tokenizer.from_path(path).encode("a" * 1_000_000, bos=False) == [tokens.index("aaaa")] * 250_000


# Bytes without a token


def write_holes(path: Path, *tokens: str, merges: Sequence[str] = ("( )",), pre: str = "gpt-2", **changes: Any) -> Path:
    """Write a vocabulary of ASCII, "()" and some tokens."""
    return write_vocabulary_gguf(path, model="gpt2", tokens=[*ASCII, "()", *tokens], merges=merges, pre=pre, **changes)


def test_characters_that_no_token_has_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_holes(tmp_path / "m.gguf", "ab", merges=["a b"])
    oracle = oracle_of([*ASCII, "()", "ab"], ["a b"], ignore_merges=False)
    tokenizer = Tokenizer.from_path(path)
    texts = ["price 日 5", "日", "a日b", "日本é", "plain", "".join(map(chr, range(0x3041, 0x3061)))]
    for text in texts:
        for _ in range(3):
            assert tokenizer.encode(text) == hugging_face_ids(oracle, [text], special=False)[0]
    first_ten = [f"U+{code:04X} {chr(code)}" for code in range(0x3041, 0x304B)]
    assert caplog.messages == [
        f"{path}: characters without a token are left out of the text: U+65E5 日",
        f"{path}: characters without a token are left out of the text: U+672C 本, U+00E9 é",
        f"{path}: characters without a token are left out of the text: {', '.join(first_ten)} and 22 others",
    ]
    assert read_back(path).encode("a日b") == tokenizer.encode("a日b")


def test_control_characters_are_not_written_to_a_terminal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_vocabulary_gguf(tmp_path / "m.gguf", model="gpt2", tokens=["a", "aa"], merges=["a a"], pre="gpt-2")
    assert Tokenizer.from_path(path).encode("\x1b[a \u202e") == [0]
    assert caplog.messages == [
        f"{path}: characters without a token are left out of the text: U+001B, U+005B [, U+0020, U+202E"
    ]


@pytest.mark.parametrize("fuse", [False, True])
def test_an_unknown_token_stands_for_bytes_that_no_token_has(
    tmp_path: Path, fuse: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It does so if its type is unknown, and its neighbors do not merge across it."""
    tokens = [*ASCII, "ab", "<unk>"]
    types = [TokenType.NORMAL] * 129 + [TokenType.UNKNOWN]
    path = write_vocabulary_gguf(
        tmp_path / "m.gguf", model="gpt2", tokens=tokens, types=types, merges=["a b"], pre="gpt-2", unknown_token_id=129
    )
    described = tokenizer_json(read_vocabulary(path))
    described["model"]["fuse_unk"] = fuse
    written = tmp_path / "tokenizer.json"
    written.write_text(json.dumps(described), encoding="utf-8")
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    oracle = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b")], unk_token="<unk>", fuse_unk=fuse))
    oracle.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = ["price 日 5", "a日b", "日本語", "ab", "éa"]
    expected = hugging_face_ids(oracle, texts, special=False)
    sources = [written] if fuse else [path, written]
    for source in sources:
        tokenizer = Tokenizer.from_path(source)
        assert [tokenizer.encode(text) for text in texts] == expected
    theirs = hugging_face_ids(tokenizers.Tokenizer.from_file(str(written)), texts, special=False)
    assert theirs == expected
    assert caplog.messages == []


def test_an_unknown_token_of_another_type_is_not_put_into_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SmolLM2's file names <|endoftext|>, but Hugging Face's tokenizers and llama.cpp never put it there."""
    types = [TokenType.NORMAL] * 129 + [TokenType.CONTROL]
    path = write_holes(tmp_path / "m.gguf", "<|endoftext|>", types=types, unknown_token_id=129)
    assert Tokenizer.from_path(path).encode("é5") == [ASCII.index("5")]
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("merges", [["( )"], ["æ Ĺ", "æĹ ¥"]])
def test_tokens_of_bytes_that_are_no_tokens_themselves(
    tmp_path: Path, merges: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Pruned vocabularies have such tokens; a whole piece becomes one, and so do bytes that merge in llama.cpp."""
    day = spell_bytes("日".encode())
    path = write_holes(tmp_path / "m.gguf", day[:2], day, merges=merges, pre="llama-bpe", add_bos_token=False)
    tokenizer = Tokenizer.from_path(path)
    assert tokenizer.encode("日") == [130]
    assert caplog.messages == []
    assert tokenizer.encode("x日") == ([ASCII.index("x"), 130] if len(merges) > 1 else [ASCII.index("x")])
    assert len(caplog.messages) == (0 if len(merges) > 1 else 1)
    if len(merges) > 1:
        pytest.importorskip("llama_cpp")
        from tests.support import llama_cpp_oracle

        assert llama_cpp_oracle.tokenize(path, ["日", "x日"]) == [[130], [ASCII.index("x"), 130]]
