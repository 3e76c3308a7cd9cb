"""Reading vocabularies, and the proof that ranks can stand for merges."""

import itertools
import json
import random
from pathlib import Path

import pytest
import regex
from gguf import TokenType
from llama3_models.byte_alphabet import CHARACTER_OF_BYTE, read_bytes, spell_bytes
from llama3_models.errors import Llama3Error
from llama3_models.gguf_file import GGUFFile
from llama3_models.merges import complete_products, reached_products
from llama3_models.pre_tokenizers import DIGITS_THEN_GPT2, GPT2, LLAMA3, TEKKEN, PreTokenizer, pre_tokenizer_of
from llama3_models.tokenizer_files import read_vocabulary
from llama3_models.vocabulary import ByteLevelBPE, Vocabulary
from tokenizers import Regex, pre_tokenizers

from tests.support.texts import mixed_texts
from tests.support.vocabularies import (
    hugging_face_bpe,
    llama3_tokenizer_json,
    llama3_tokenizer_model,
    smollm2_gguf,
    write_llama3_gguf,
    write_vocabulary_gguf,
)

BYTES = list(CHARACTER_OF_BYTE.values())


def vocabulary_of(path: Path) -> Vocabulary:
    with GGUFFile.open(path) as file:
        return Vocabulary.from_gguf(file)


def write_small(path: Path, **changes: object) -> Path:
    """A byte-level vocabulary of the 256 bytes, one merge and three special tokens."""
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


LLAMA3_AS_PUBLISHED = json.loads(llama3_tokenizer_json().read_text(encoding="utf-8"))["pre_tokenizer"]
TEKKEN_AS_PUBLISHED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?"
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize(
    ("pre_tokenizer", "oracle"),
    [
        pytest.param(GPT2, pre_tokenizers.ByteLevel(add_prefix_space=False), id="gpt2"),
        pytest.param(
            DIGITS_THEN_GPT2,
            pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
            id="smollm",
        ),
        pytest.param(
            LLAMA3,
            pre_tokenizers.Split(Regex(LLAMA3_AS_PUBLISHED["pretokenizers"][0]["pattern"]["Regex"]), "isolated"),
            id="llama3",
        ),
        pytest.param(TEKKEN, pre_tokenizers.Split(Regex(TEKKEN_AS_PUBLISHED), "isolated"), id="tekken"),
    ],
)
def test_pre_tokenizers_cut_as_the_originals_do(
    pre_tokenizer: PreTokenizer, oracle: pre_tokenizers.PreTokenizer
) -> None:
    pattern = regex.compile(pre_tokenizer.pattern)
    for text in mixed_texts(3000):
        pieces = [text[start:end] for _, (start, end) in oracle.pre_tokenize_str(text)]
        assert pattern.findall(text) == pieces, ascii(text)


def test_a_tokenizer_json_is_recognized_by_how_it_cuts() -> None:
    assert pre_tokenizer_of(LLAMA3_AS_PUBLISHED, whole_pieces=True, source="x") == LLAMA3
    with pytest.raises(Llama3Error, match="x: its pre_tokenizer is not one that is known"):
        pre_tokenizer_of({"type": "Whitespace"}, whole_pieces=True, source="x")


def test_lists_of_merges_are_told_apart() -> None:
    """Llama 3's list has all pairs; SmolLM2's one pair a token."""
    model = json.loads(llama3_tokenizer_json().read_text())["model"]
    complete = complete_products(model["merges"], model["vocab"])
    assert complete is not None
    assert len(complete) == 127_744
    assert complete == sorted(complete, key=model["vocab"].__getitem__)
    assert complete_products(model["merges"][:2] + model["merges"][3:], model["vocab"]) is None

    smollm2 = vocabulary_of(smollm2_gguf())
    assert isinstance(smollm2.model, ByteLevelBPE)
    assert smollm2.model.merges is not None
    reached = reached_products(smollm2.model.merges)
    assert reached is not None
    assert len(reached) == 48_900


def test_ranks_of_any_list_of_merges_encode_as_the_list_does() -> None:
    """Random lists, with pairs that never happen and tokens of several pairs, against Hugging Face's own merging."""
    rng = random.Random(3)
    outcomes = {"followed": 0, "refused": 0, "dropped": 0}
    for _ in range(400):
        alphabet = "abc"[: rng.randint(1, 3)]
        tokens = list(alphabet)
        merges: list[str] = []
        while len(merges) < rng.randint(1, 12):
            left, right = rng.choice(tokens), rng.choice(tokens)
            if len(left + right) <= 6 and f"{left} {right}" not in merges:
                merges.append(f"{left} {right}")
                if left + right not in tokens:
                    tokens.append(left + right)
        if rng.random() < 0.2:
            rng.shuffle(merges)
        products = reached_products(merges)
        if products is None:
            outcomes["refused"] += 1
            continue
        outcomes["followed"] += 1
        outcomes["dropped"] += len(products) < len(tokens) - len(alphabet)
        ranks = {token: rank for rank, token in enumerate(products)}
        oracle = hugging_face_bpe(tokens, merges)
        for _ in range(30):
            text = "".join(rng.choices(alphabet, k=rng.randint(1, 12)))
            assert merge_by_rank(text, ranks) == oracle.encode(text).tokens, (merges, text)
    assert min(outcomes.values()) > 10, outcomes


def merge_by_rank(text: str, ranks: dict[str, int]) -> list[str]:
    """tiktoken's rule in its plainest form."""
    parts = list(text)
    while True:
        pairs = [(ranks[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in ranks]
        if not pairs:
            return parts
        _, i = min(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


@pytest.mark.parametrize(
    ("changes", "adds_bos", "eog_ids"),
    [
        ({}, False, {258, 259}),
        ({"pre": "llama-bpe"}, True, {258, 259}),
        ({"pre": "llama-bpe", "add_bos_token": False}, False, {258, 259}),
        ({"add_bos_token": True}, True, {258, 259}),
        ({"pre": "llama-bpe", "bos_token_id": None}, False, {258, 259}),
        ({"eos_token_id": 0, "eom_token_id": 1}, False, {0, 1, 258, 259}),
        ({"types": None}, False, {258}),
    ],
)
def test_what_the_metadata_says_of_special_tokens(
    tmp_path: Path, changes: dict[str, object], adds_bos: bool, eog_ids: set[int]
) -> None:
    """BOS as the file says, else as llama.cpp's default for the pre-tokenizer; ends by id and by text."""
    vocabulary = vocabulary_of(write_small(tmp_path / "small.gguf", **changes))
    assert vocabulary.adds_bos is adds_bos
    assert vocabulary.eog_ids == eog_ids


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": "qwen2"}, r"the pre-tokenizer 'qwen2' \(tokenizer.ggml.pre\) is not one that is known"),
        ({"pre": None}, "does not name its pre-tokenizer"),
        ({"model": "bert"}, "its tokenizer is of the kind 'bert'"),
        ({"types": [1]}, "tokenizer.ggml.token_type has 1 entries for 260 tokens"),
        ({"bos_token_id": 260}, "tokenizer.ggml.bos_token_id is 260, and there are 260 tokens"),
        ({"bos_token_id": None, "add_bos_token": True}, "add_bos_token is true, but there is no"),
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


def test_types_that_nobody_has_defined_are_unused(tmp_path: Path) -> None:
    types = [TokenType.NORMAL] * 257 + [0, 99, -1]
    vocabulary = vocabulary_of(write_small(tmp_path / "small.gguf", types=types))
    assert vocabulary.types[257:] == [TokenType.UNUSED] * 3


@pytest.mark.parametrize(("num_rows", "count"), [(260, 260), (256, 256), (10, 256), (10**9, 256), ("260", 256)])
def test_rows_of_a_model_without_a_token_are_unused_tokens(tmp_path: Path, num_rows: object, count: int) -> None:
    """A model padded to a round number of rows may draw one that its tokenizer.json does not know."""
    model = {"type": "BPE", "vocab": {character: byte for byte, character in enumerate(BYTES)}, "merges": []}
    described = {"model": model, "pre_tokenizer": dict(GPT2.hugging_face)}
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": num_rows}), encoding="utf-8")
    vocabulary = read_vocabulary(tmp_path)
    assert vocabulary.tokens[256:] == [""] * (count - 256)
    assert vocabulary.types[256:] == [TokenType.UNUSED] * (count - 256)


def test_metas_file_numbers_tokens_as_the_hub_does(tmp_path: Path) -> None:
    """The same ids from tokenizer.model, tokenizer.json and a GGUF, special tokens included."""
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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b'{"version": "1.0", "model": {"type": "BPE"', "is not complete JSON"),
        ("tokenizer.json", b"{}", "not a tokenizer.json with a vocabulary"),
        ("tokenizer.json", b'{"model": {"type": "WordPiece", "vocab": {"a": 0}}}', "its model is 'WordPiece'"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": -1}, "merges": []}}', "its ids are no numbering"),
        ("tokenizer.json", b'{"model": {"vocab": {"\\ud800": 0}, "merges": []}}', "is not Unicode"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": 0}, "merges": [1]}, "pre_tokenizer": {"type": "ByteLevel",'
         b' "add_prefix_space": false}}', "1 is no merge of two tokens"),
        ("tokenizer.model", b"IQ== 0\nIg== 2\n", "line 2 is not a token in base64 and the rank 1"),
        ("tokenizer.model", b"IQ== 0\nIg== 1\n", "not every single byte is one of its 2 tokens"),
        ("tokenizer.model", b"\n\xff\xff\xff", "is no GGUF, tokenizer.json or tokenizer.model, or a damaged one"),
        ("tokenizer.model", b"\n\x04\n\x02\xff\xff\x12\x02\x18\x02", "or a damaged one"),  # a token not in UTF-8
        ("tokenizer.model", b"", "is no GGUF, tokenizer.json or tokenizer.model"),
        ("tokenizer.bin", bytes(100), "is no GGUF, tokenizer.json or tokenizer.model"),
        ("model.gguf", b"GGUF", "model.gguf"),
    ],
)  # fmt: skip
def test_files_that_are_no_tokenizers_are_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(Llama3Error, match=message) as caught:
        read_vocabulary(path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_tokenizer_and_a_missing_file_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(Llama3Error, match=r"neither a tokenizer\.json nor a tokenizer\.model"):
        read_vocabulary(tmp_path)
    with pytest.raises(Llama3Error, match="cannot be read: No such file"):
        read_vocabulary(tmp_path / "tokenizer.json")
