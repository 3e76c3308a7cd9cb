"""Vocabularies from a GGUF and from other kinds of files; an unusable one is a one-line error."""

import json
import os
from pathlib import Path

import pytest
import tokenizers
from gguf import TokenType
from llama3_exporter.tokenizers.json_files import tokenizer_json
from llama3_models.errors import Llama3Error, UsageError
from llama3_models.gguf.file import GGUFFile
from llama3_models.tokenizer.byte_alphabet import CHARACTER_OF_BYTE, read_bytes, spell_bytes
from llama3_models.tokenizer.files import read_vocabulary
from llama3_models.tokenizer.pre_tokenizers import GPT2, PRE_TOKENIZERS
from llama3_models.tokenizer.vocabulary import ByteLevelBPE, Vocabulary
from llama3_runtime.text.tokenizer import Tokenizer
from tokenizers import pre_tokenizers

from tests.support.texts import mixed_texts
from tests.support.vocabularies import (
    CHATML_TEMPLATE,
    hugging_face_ids,
    hugging_face_qwen3,
    llama3_tokenizer_json,
    llama3_tokenizer_model,
    without_newer_marks,
    write_llama3_gguf,
    write_qwen3_gguf,
    write_sentencepiece_gguf,
    write_vocabulary_gguf,
)

BYTES = list(CHARACTER_OF_BYTE.values())


def vocabulary_of(path: Path) -> Vocabulary:
    with GGUFFile.open(path) as file:
        return Vocabulary.from_gguf(file)


def write_small(path: Path, **changes: object) -> Path:
    """Write a byte-level vocabulary of the 256 bytes, one merge and three special tokens."""
    described = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": [*BYTES, "ab", "<s>", "</s>", "<|eot_id|>"],
        "types": [TokenType.NORMAL] * 257 + [TokenType.CONTROL] * 3,
        "merges": ["a b"],
        "bos_token_id": 257,
        "eos_token_id": 258,
    } | changes
    return write_vocabulary_gguf(path, **{key: value for key, value in described.items() if value is not None})  # type: ignore[arg-type]


def test_alphabet_is_that_of_hugging_face() -> None:
    assert set(BYTES) == set(pre_tokenizers.ByteLevel.alphabet())
    piece, _ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str("é\n 日\x00")[0]
    assert spell_bytes("é\n 日\x00".encode()) == piece
    assert read_bytes(piece) == "é\n 日\x00".encode()


@pytest.mark.parametrize(
    ("changes", "adds_bos", "eog_ids"),
    [
        ({}, False, {258, 259}),
        ({"pre": "llama-bpe"}, True, {258, 259}),
        ({"pre": "llama-bpe", "add_bos_token": False}, False, {258, 259}),
        ({"add_bos_token": True}, True, {258, 259}),
        ({"pre": "llama-bpe", "bos_token_id": None}, False, {258, 259}),
        ({"eos_token_id": 0, "eom_token_id": 1}, False, {0, 1, 258, 259}),
        ({"types": None}, False, {258, 259}),
    ],
)
def test_what_the_metadata_says_of_special_tokens(
    tmp_path: Path, changes: dict[str, object], adds_bos: bool, eog_ids: set[int]
) -> None:
    """BOS follows the file, or llama.cpp's default for the pre-tokenizer; end tokens are found by id and by text."""
    vocabulary = vocabulary_of(write_small(tmp_path / "small.gguf", **changes))
    assert vocabulary.adds_bos is adds_bos
    assert vocabulary.eog_ids == eog_ids


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": "gemma4"}, "unknown pre-tokenizer 'gemma4'"),
        ({"model": "bert"}, "tokenizer.ggml.model is 'bert'"),
        ({"types": [1]}, "tokenizer.ggml.token_type has length 1, expected 260"),
        ({"bos_token_id": None, "add_bos_token": True}, "add_bos_token is true, but .*bos_token_id"),
        ({"bos_token_id": 260, "add_bos_token": True}, "add_bos_token is true, but .*bos_token_id"),
        ({"merges": None}, "tokenizer.ggml.merges"),
        ({"add_bos_token": "yes"}, "add_bos_token"),
    ],
)
def test_a_vocabulary_that_cannot_be_used_is_one_line(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = write_small(tmp_path / "small.gguf", **changes)
    with pytest.raises(Llama3Error, match=message) as caught:
        vocabulary_of(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_ids_that_no_token_has_are_passed_over(tmp_path: Path, kind: str) -> None:
    """llama.cpp also ignores them ("bad special token"). Padding tokens of 32000 and -1 are in many files."""
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "<|end|>"]
    llama = {"tokens": tokens, "types": [2, 3, 3, *[TokenType.BYTE] * 256, 3], "scores": [0.0] * 260, "merges": None}
    changes = {"padding_token_id": 32_000, "unknown_token_id": 260, "eot_token_id": 2**32 - 1, "prefix_token_id": 999}
    if kind == "llama":  # llama.cpp's defaults for gpt2 are letters
        changes |= {**llama, "model": kind, "bos_token_id": 260, "eos_token_id": 2**32 - 1}
    path = write_small(tmp_path / "a.gguf", **changes)
    vocabulary = vocabulary_of(path)
    assert vocabulary.eog_ids == llama_cpp_oracle.eog_ids(path)
    named = llama_cpp_oracle.named_tokens(path)
    assert (vocabulary.bos_id, vocabulary.eos_id, vocabulary.pad_id) == (named["bos"], named["eos"], named["pad"])
    assert f"padding_token_id is 32000, but there are {len(vocabulary.tokens)} tokens" in " ".join(vocabulary.warnings)
    assert len(vocabulary.warnings) == (6 if kind == "llama" else 4)
    assert vocabulary_of(write_small(tmp_path / "b.gguf", bos_token_id=260)).bos_id is None


def test_a_gguf_that_names_no_pre_tokenizer(tmp_path: Path) -> None:
    """It is read like one named default, with a warning that says what to do."""
    path, named = write_small(tmp_path / "a.gguf", pre=None), write_small(tmp_path / "b.gguf", pre="default")
    vocabulary = vocabulary_of(path)
    assert vocabulary.model == vocabulary_of(named).model
    (warning,) = vocabulary.warnings
    assert "pre-tokenizer is not named" in warning
    assert "--pre-tokenizer" in warning
    assert not vocabulary_of(named).warnings
    assert vocabulary_of(write_small(tmp_path / "c.gguf", pre="")).warnings == vocabulary.warnings


@pytest.mark.parametrize("pre", ["gpt-2", "gemma4", None])
def test_a_pre_tokenizer_that_is_asked_for(tmp_path: Path, pre: str | None) -> None:
    """It overrides the file's name, with all the rules that the name has for a GGUF."""
    path = write_small(tmp_path / "a.gguf", pre=pre)
    asked = read_vocabulary(path, "llama-bpe")
    like = read_vocabulary(write_small(tmp_path / "b.gguf", pre="llama-bpe"))
    assert (asked.model, asked.adds_bos, asked.warnings) == (like.model, True, ())
    assert (
        Tokenizer.from_path(path, pre_tokenizer="deepseek-llm").vocabulary.model.pre_tokenizer
        == (  # type: ignore[union-attr]
            PRE_TOKENIZERS["deepseek-llm"]
        )
    )


def test_a_pre_tokenizer_for_other_files(tmp_path: Path) -> None:
    """The other settings of a tokenizer.json stay, even if its own is unknown; SentencePiece does not use one."""
    path = write_byte_json(tmp_path, NFC)
    described = json.loads(path.read_text(encoding="utf-8")) | {"pre_tokenizer": {"type": "Whitespace"}}
    path.write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(Llama3Error, match="--pre-tokenizer"):
        read_vocabulary(path)
    model = read_vocabulary(path, "llama-bpe").model
    assert isinstance(model, ByteLevelBPE)
    assert (model.pre_tokenizer.steps, model.pre_tokenizer.nfc) == (PRE_TOKENIZERS["llama-bpe"].steps, True)
    assert not model.pre_tokenizer.ignore_merges
    meta = read_vocabulary(llama3_tokenizer_model(), "gpt-2").model
    assert isinstance(meta, ByteLevelBPE)
    assert meta.pre_tokenizer == GPT2
    with pytest.raises(UsageError, match=r"SentencePiece vocabulary.*omit"):
        read_vocabulary(write_sentencepiece_gguf(tmp_path / "spm.gguf"), "gpt-2")


@pytest.mark.parametrize(
    ("name", "advice"),
    [("llama3.1", "did you mean llama3"), ("Deepseek_LLM", "deepseek-llm"), ("?", r"docs/pre-tokenizers\.md")],
)
def test_a_pre_tokenizer_that_nobody_knows(tmp_path: Path, name: str, advice: str) -> None:
    with pytest.raises(UsageError, match=advice):
        read_vocabulary(write_small(tmp_path / "small.gguf"), name)


def test_types_that_nobody_has_defined_are_unused(tmp_path: Path) -> None:
    tokens = [*BYTES, "ab", "<a>", "<b>", "<c>"]
    types = [TokenType.NORMAL] * 257 + [0, 99, -1]
    vocabulary = vocabulary_of(write_small(tmp_path / "small.gguf", tokens=tokens, types=types))
    assert vocabulary.types[257:] == [TokenType.UNUSED] * 3


def test_a_token_without_text_is_not_the_one_that_a_file_does_not_name(tmp_path: Path) -> None:
    write_byte_json(tmp_path, None, vocab={"": 256, **{character: byte for byte, character in enumerate(BYTES)}})
    vocabulary = read_vocabulary(tmp_path)
    assert (vocabulary.bos_id, vocabulary.eos_id, vocabulary.unk_id, vocabulary.pad_id) == (None,) * 4
    assert vocabulary.eog_ids == frozenset()


@pytest.mark.parametrize(("num_rows", "count"), [(260, 260), (256, 256), (10, 256), (10**9, 256), ("260", 256)])
def test_rows_of_a_model_without_a_token_are_unused_tokens(tmp_path: Path, num_rows: object, count: int) -> None:
    """A model padded to a round number of rows may generate one that its tokenizer.json does not have."""
    write_byte_json(tmp_path, None)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": num_rows}), encoding="utf-8")
    vocabulary = read_vocabulary(tmp_path)
    assert vocabulary.tokens[256:] == [""] * (count - 256)
    assert vocabulary.types[256:] == [TokenType.UNUSED] * (count - 256)


def test_metas_file_numbers_tokens_as_the_hub_does(tmp_path: Path) -> None:
    """tokenizer.model, tokenizer.json and a GGUF have the same ids, special tokens included."""
    meta = read_vocabulary(llama3_tokenizer_model())
    hub = read_vocabulary(llama3_tokenizer_json())
    from_gguf = vocabulary_of(write_llama3_gguf(tmp_path / "llama3.gguf"))
    assert meta.tokens[:128_000] == hub.tokens[:128_000] == from_gguf.tokens[:128_000]
    for token_id in (0, 1, 6, 7, 9):
        assert meta.tokens[128_000 + token_id] == hub.tokens[128_000 + token_id]
    assert len(meta.tokens) == len(hub.tokens) == len(set(meta.tokens)) == 128_256
    assert meta.bos_id == hub.bos_id == from_gguf.bos_id == 128_000
    assert meta.eog_ids == {128_001, 128_008, 128_009}
    assert hub.eog_ids == from_gguf.eog_ids == {128_001, 128_009}
    assert meta.adds_bos
    assert hub.adds_bos
    assert from_gguf.adds_bos


def test_what_a_gguf_of_qwen3_says(tmp_path: Path) -> None:
    """Its first special token is named as the beginning-of-sequence token, but no prompt begins with it."""
    vocabulary = vocabulary_of(write_qwen3_gguf(tmp_path / "qwen3.gguf"))
    assert len(vocabulary.tokens) == 151_936
    assert (vocabulary.bos_id, vocabulary.eos_id, vocabulary.pad_id) == (151_643, 151_645, 151_643)
    assert not vocabulary.adds_bos
    ends = {vocabulary.tokens[token_id] for token_id in vocabulary.eog_ids}
    # As in llama.cpp, </s> ends generation in every vocabulary that has it.
    assert ends == {"<|endoftext|>", "<|im_end|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "</s>"}
    assert not vocabulary.warnings
    found = {"<tool_call>": 151_657, "<think>": 151_667, "</think>": 151_668}
    assert found.items() <= vocabulary.ids_by_text(TokenType.USER_DEFINED).items()
    assert vocabulary.chat_template == CHATML_TEMPLATE


NFC = {"type": "NFC"}


@pytest.mark.parametrize("merges", ["pairs", "strings"])
@pytest.mark.parametrize("normalizer", [NFC, {"type": "Sequence", "normalizers": [NFC]}])
def test_a_tokenizer_json_of_qwen3(tmp_path: Path, merges: str, normalizer: object) -> None:
    """It is read as published, with the files beside it; older ones have the merges as strings."""
    original = hugging_face_qwen3()
    described = json.loads(original.to_str()) | {"normalizer": normalizer}
    pairs = [merge if isinstance(merge, list) else merge.split(" ") for merge in described["model"]["merges"]]
    described["model"]["merges"] = pairs if merges == "pairs" else [" ".join(pair) for pair in pairs]
    config = {
        "add_prefix_space": False,
        "bos_token": None,
        "chat_template": CHATML_TEMPLATE,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    generation = {"bos_token_id": 151_643, "eos_token_id": [151_645, 151_643], "pad_token_id": 151_643}
    model = {"vocab_size": 151_936}
    for name, content in (
        ("tokenizer", described),
        ("tokenizer_config", config),
        ("generation_config", generation),
        ("config", model),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    vocabulary = read_vocabulary(tmp_path)
    assert len(vocabulary.tokens) == 151_936
    assert (vocabulary.bos_id, vocabulary.eos_id, vocabulary.pad_id) == (None, 151_645, 151_643)
    assert (vocabulary.adds_bos, vocabulary.eog_ids) == (False, {151_643, 151_645})
    assert vocabulary.chat_template == CHATML_TEMPLATE
    texts = without_newer_marks(mixed_texts(1000))
    ours = Tokenizer(vocabulary)
    for special in (False, True):
        theirs = hugging_face_ids(original, texts, special=special)
        assert [ours.encode(text, special=special) for text in texts] == theirs


@pytest.mark.parametrize("normalizer", [None, {"type": "Sequence", "normalizers": []}])
def test_a_normalizer_that_does_nothing(tmp_path: Path, normalizer: object) -> None:
    path = write_byte_json(tmp_path, normalizer)
    assert Tokenizer.from_path(path).encode("e\u0301") == [
        BYTES.index(CHARACTER_OF_BYTE[byte]) for byte in b"e\xcc\x81"
    ]


@pytest.mark.parametrize(
    "normalizer",
    [{"type": "NFKC"}, {"type": "Lowercase"}, {"type": "Sequence", "normalizers": [NFC, {"type": "Strip"}]}, "NFC"],
)
def test_other_normalizers_are_refused(tmp_path: Path, normalizer: object) -> None:
    with pytest.raises(Llama3Error, match=r"tokenizer\.json: its normalizer is not NFC") as caught:
        read_vocabulary(write_byte_json(tmp_path, normalizer))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("type", "WordPiece"), ("end_of_word_suffix", "</w>"), ("continuing_subword_prefix", "##"), ("dropout", 0.1)],
)
def test_a_model_that_encodes_otherwise_is_refused(tmp_path: Path, setting: str, value: object) -> None:
    with pytest.raises(Llama3Error, match=rf"tokenizer\.json: .*{value if setting == 'type' else setting}"):
        read_vocabulary(write_byte_json(tmp_path, None, **{setting: value}))
    assert read_vocabulary(write_byte_json(tmp_path, None, dropout=None, end_of_word_suffix="")).tokens


@pytest.mark.parametrize("depth", [1100, 100_000])
def test_lists_within_lists_are_one_line(tmp_path: Path, depth: int) -> None:
    """Either the JSON reader or the code that walks the lists reaches the end of Python's stack first."""
    path = write_byte_json(tmp_path, "HERE")
    nested = '{"type": "Sequence", "normalizers": [' * depth + '{"type": "NFC"}' + "]}" * depth
    path.write_text(path.read_text(encoding="utf-8").replace('"HERE"', nested), encoding="utf-8")
    with pytest.raises(Llama3Error, match=r"tokenizer\.json: ") as caught:
        read_vocabulary(path)
    assert "\n" not in str(caught.value)


def write_byte_json(folder: Path, normalizer: object, **settings: object) -> Path:
    """Write the 256 bytes as a tokenizer.json with a normalizer."""
    vocab = {character: byte for byte, character in enumerate(BYTES)}
    model = {"type": "BPE", "vocab": vocab, "merges": [], **settings}
    described = {"model": model, "normalizer": normalizer, "pre_tokenizer": dict(GPT2.hugging_face)}
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(described), encoding="utf-8")
    return path


def test_a_tokenizer_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for name in ("gone.json", "x" * 300):
        with pytest.raises(Llama3Error, match=f"{name}: the tokenizer cannot be read"):
            read_vocabulary(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b'{"version": "1.0", "model": {"type": "BPE"', "not complete JSON"),
        ("tokenizer.json", b"{}", "not a tokenizer.json with a vocabulary"),
        ("tokenizer.json", b'{"model": {"type": "WordPiece", "vocab": {"a": 0}}}', "its model is 'WordPiece'"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": -1}, "merges": []}}', "invalid token ids"),
        ("tokenizer.json", b'{"model": {"vocab": {"\\ud800": 0}, "merges": []}}', "is not Unicode"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": 0}, "merges": [1]}, "pre_tokenizer": {"type": "ByteLevel",'
         b' "add_prefix_space": false}}', "merge 1 is not a pair"),
        ("tokenizer.model", b"IQ== 0\nIg== 2\n", "line 2 is not a token in base64 and the rank 1"),
        ("tokenizer.model", b"IQ== 0\nIg== 1\n", "does not have a token for every byte"),
        ("tokenizer.model", b"\n\xff\xff\xff", "damaged, or not a GGUF"),
        ("tokenizer.model", b"\n\x04\n\x02\xff\xff\x12\x02\x18\x02", "damaged, or not a"),  # a token that is not UTF-8
        ("tokenizer.model", b"", ": not a GGUF, tokenizer.json or tokenizer.model"),
        ("tokenizer.bin", bytes(100), ": not a GGUF, tokenizer.json or tokenizer.model"),
        ("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer, not the"),
        ("tokenizer.model", b"<!DOCTYPE html><html>", "a web page, not a model"),
        ("tokenizer.json", b"Entry not found", "a server's answer"),
        ("tokenizer.json", b"\x1f\x8b\x08", "compressed with gzip"),
        ("model.gguf", b"GGUF", "model.gguf"),
    ],
)  # fmt: skip
def test_files_that_are_no_tokenizers_are_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(Llama3Error, match=message) as caught:
        read_vocabulary(path)
    assert "\n" not in str(caught.value)


REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
PREPEND = {"type": "Prepend", "prepend": "\u2581"}


def metaspace(**changes: object) -> dict[str, object]:
    return {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "never", "split": False} | changes


def write_sentencepiece_json(folder: Path, normalizer: object, pre_tokenizer: object) -> Path:
    """Write the trained SentencePiece vocabulary as a tokenizer.json with these two rules."""
    described = tokenizer_json(vocabulary_of(write_sentencepiece_gguf(folder / "spm.gguf")))
    described |= {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer}
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(described), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer"),
    [
        ({"type": "Sequence", "normalizers": [PREPEND, REPLACE]}, None),
        ({"type": "Sequence", "normalizers": [REPLACE]}, None),
        (REPLACE, None),
        (None, metaspace()),
    ],
)
def test_a_sentencepiece_json_is_read_as_hugging_face_reads_it(
    tmp_path: Path, normalizer: object, pre_tokenizer: object
) -> None:
    path = write_sentencepiece_json(tmp_path, normalizer, pre_tokenizer)
    texts = [*mixed_texts(500), " a", "  a", "<user> a", "</s>a"]
    theirs = hugging_face_ids(tokenizers.Tokenizer.from_file(str(path)), texts, special=True)
    ours = Tokenizer.from_path(path)
    assert [ours.encode(text, bos=False, special=True) for text in texts] == theirs


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer"),
    [
        (None, None),
        ({"type": "NFKC"}, None),
        ({"type": "Sequence", "normalizers": [{"type": "NFC"}, PREPEND, REPLACE]}, None),
        (None, metaspace(split=True)),
        (None, metaspace(prepend_scheme="always")),
        (None, metaspace(prepend_scheme="first")),
        ({"type": "Sequence", "normalizers": [PREPEND, REPLACE]}, metaspace()),
    ],
)
def test_a_sentencepiece_json_that_treats_text_otherwise_is_refused(
    tmp_path: Path, normalizer: object, pre_tokenizer: object
) -> None:
    path = write_sentencepiece_json(tmp_path, normalizer, pre_tokenizer)
    with pytest.raises(Llama3Error, match="unknown normalizer or pre_tokenizer") as caught:
        read_vocabulary(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"])
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_pipes_and_folders_among_the_files_are_one_line(tmp_path: Path, name: str, kind: str) -> None:
    """Opening a pipe that has no writer would wait forever."""
    for other in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"):
        (tmp_path / other).write_bytes(llama3_tokenizer_json().read_bytes() if other == "tokenizer.json" else b"{}")
    (tmp_path / name).unlink()
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(Llama3Error) as caught:
        read_vocabulary(tmp_path if name != "tokenizer.json" or kind == "folder" else tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_tokenizer_and_a_missing_file_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(Llama3Error, match="has no tokenizer; "):
        read_vocabulary(tmp_path)
    with pytest.raises(Llama3Error, match=r"cannot be read \(No such file"):
        read_vocabulary(tmp_path / "tokenizer.json")
