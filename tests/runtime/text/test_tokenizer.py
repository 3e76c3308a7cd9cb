"""The ids match those of Hugging Face's tokenizers, sentencepiece and llama.cpp; special tokens follow the rules."""

import itertools
import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import sentencepiece
from gguf import TokenType
from llama3_models.errors import Llama3Error
from llama3_models.tokenizer.byte_alphabet import CHARACTER_OF_BYTE
from llama3_runtime.text.tokenizer import Tokenizer
from tokenizers import AddedToken, normalizers, pre_tokenizers

from tests.support.texts import mixed_texts
from tests.support.vocabularies import (
    hugging_face_bpe,
    hugging_face_ids,
    hugging_face_llama3,
    hugging_face_qwen3,
    hugging_face_smollm2,
    llama3_tokenizer_json,
    llama3_tokenizer_model,
    sentencepiece_model,
    smollm2_gguf,
    without_newer_marks,
    write_llama3_gguf,
    write_qwen3_gguf,
    write_sentencepiece_gguf,
    write_vocabulary_gguf,
)

BYTES = list(CHARACTER_OF_BYTE.values())


@pytest.fixture(scope="module")
def llama3() -> Tokenizer:
    return Tokenizer.from_path(llama3_tokenizer_json())


@pytest.fixture(scope="module")
def smollm2() -> Tokenizer:
    return Tokenizer.from_path(smollm2_gguf())


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_path(write_qwen3_gguf(tmp_path_factory.mktemp("qwen3") / "qwen3.gguf"))


@pytest.fixture(scope="module")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_path(write_sentencepiece_gguf(tmp_path_factory.mktemp("spm") / "spm.gguf"))


def ids_of(tokenizer: Tokenizer, texts: Sequence[str], *, special: bool) -> list[list[int]]:
    return [tokenizer.encode(text, bos=False, special=special) for text in texts]


def differences(texts: Sequence[str], ours: list[list[int]], theirs: list[list[int]]) -> list[str]:
    return [ascii(text) for text, a, b in zip(texts, ours, theirs, strict=True) if a != b]


# Ids


@pytest.mark.parametrize("special", [False, True])
def test_llama3_encodes_10000_texts_as_hugging_face_does(llama3: Tokenizer, special: bool) -> None:
    texts = mixed_texts()
    theirs = hugging_face_ids(hugging_face_llama3(), texts, special=special)
    assert differences(texts, ids_of(llama3, texts, special=special), theirs) == []


@pytest.mark.parametrize("special", [False, True])
def test_smollm2_encodes_10000_texts_as_hugging_face_does(smollm2: Tokenizer, special: bool) -> None:
    texts = mixed_texts()
    theirs = hugging_face_ids(hugging_face_smollm2(), texts, special=special)
    assert differences(texts, ids_of(smollm2, texts, special=special), theirs) == []


@pytest.mark.parametrize("special", [False, True])
def test_qwen3_encodes_10000_texts_as_hugging_face_does(qwen3: Tokenizer, special: bool) -> None:
    texts = without_newer_marks(mixed_texts())
    assert len(texts) > 9980
    theirs = hugging_face_ids(hugging_face_qwen3(), texts, special=special)
    assert differences(texts, ids_of(qwen3, texts, special=special), theirs) == []


NORMALIZED = [
    "Cafe\u0301 cafe\u0301s, a\u0308\u0323 and a\u0323\u0308, e\u0301\u0301",
    "Tie\u0302\u0301ng Vie\u0323\u0302t Vie\u0302\u0323t",
    "\u1112\u1161\u11ab\u1100\u1173\u11af \ud55c\uae00 \uac00\u11a8",  # Hangul as letters and syllables
    "か\u3099ぎ は\u309aテ",
    "\u212b \u2126 \u212a \u037e \u2000x\u2001 \uf900 \ufa1e \u0958",  # one character becomes another, or two
    "\u0301 e \u0301e\n\u0301<\u0338 =\u0338",  # a mark after nothing, a space or a newline
    "\ufb01 \u00bd \uff21 \u1e9b\u0323",  # changed only by the compatibility forms
    "12\u0305 ½\u0301 \u0660\u0653",
    "<|im_start|>user\nre\u0301sume\u0301<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "<|im_end|>\u0338<think>\u0338</think>\u0301e<tool_call>\u0301",  # a mark after a token does not change it
    "<|im_end\u0301|> <thin\u212a> \u212b<think\u037e",  # nor does a text become one
    "x" * 90 + "e\u0301" * 300 + "q" + "\u0315\u0316\u0301" * 300,
]


@pytest.mark.parametrize("special", [False, True])
def test_qwen3_normalizes_what_is_between_tokens(qwen3: Tokenizer, special: bool) -> None:
    theirs = hugging_face_ids(hugging_face_qwen3(), NORMALIZED, special=special)
    assert differences(NORMALIZED, ids_of(qwen3, NORMALIZED, special=special), theirs) == []
    assert qwen3.decode(qwen3.encode("Cafe\u0301")) == "Caf\u00e9"


def test_llama3_is_the_same_from_every_kind_of_file(llama3: Tokenizer, tmp_path: Path) -> None:
    texts = mixed_texts(2000)
    expected = ids_of(llama3, texts, special=False)
    for path in (llama3_tokenizer_model(), write_llama3_gguf(tmp_path / "llama3.gguf")):
        assert differences(texts, ids_of(Tokenizer.from_path(path), texts, special=False), expected) == []


def test_ids_that_are_not_in_the_order_of_the_merges_are_the_files_own(tmp_path: Path) -> None:
    """tiktoken needs ranks, but a file may number its tokens in any order and have tokens that no merge forms."""
    tokens = ["abc", "orphan", *reversed(BYTES), "ca", "ab", "Ġab"]
    merges = ["a b", "Ġ ab", "c a", "ab c"]
    path = write_vocabulary_gguf(tmp_path / "m.gguf", model="gpt2", tokens=tokens, merges=merges, pre="gpt-2")
    oracle = hugging_face_bpe(tokens, merges)
    oracle.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = ["abc", "cabc abc ab", "orphan", "aabbcc", "cacab abca"]
    assert ids_of(Tokenizer.from_path(path), texts, special=False) == hugging_face_ids(oracle, texts, special=False)


def test_a_complete_list_is_followed_in_any_order(tmp_path: Path) -> None:
    """It has every pair that forms a token, like Llama 3's, but pieces do not stay whole."""
    tokens, merges = [*BYTES, "ab", "abc", "ca"], ["ab c", "c a", "a b"]
    path = write_vocabulary_gguf(tmp_path / "m.gguf", model="gpt2", tokens=tokens, merges=merges, pre="gpt-2")
    oracle = hugging_face_bpe(tokens, merges)
    oracle.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = ["abc", "cabc", "abcabc", "aabbcc", "cacabab abca"]
    assert ids_of(Tokenizer.from_path(path), texts, special=False) == hugging_face_ids(oracle, texts, special=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merges": ["a b", "b b"]}, "its merges form 'bb'"),
        ({"merges": ["a b", "abc"]}, "merge 'abc' is not a pair of tokens"),
        ({"merges": ["a b", " ab"]}, "merge ' ab' is not a pair of tokens"),
    ],
)
def test_damaged_merges_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    described = {"model": "gpt2", "tokens": [*BYTES, "ab", "abc"], "pre": "gpt-2"} | changes
    path = write_vocabulary_gguf(tmp_path / "m.gguf", **described)  # type: ignore[arg-type]
    with pytest.raises(Llama3Error, match=message) as caught:
        Tokenizer.from_path(path)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_token_are_left_out_before_merging(smollm2: Tokenizer) -> None:
    """SmolLM2 has no token for U+0004. The text around it is joined, as in Hugging Face's tokenizers."""
    oracle = hugging_face_smollm2()
    for text in ("!\x04!", "\x04", "a\x04b", "\x04\x06 \x04 5\x04\n\x04\n", "\U00040000"):
        assert [smollm2.encode(text)] == hugging_face_ids(oracle, [text], special=False)


# Long texts

LONG = {
    "letter": "a",
    "space": " ",
    "newline": "\n",
    "line": "  \n",
    "digit": "7",
    "punctuation": "!",
    "emoji": "👍🏽",
    "cjk": "漢字",
    "combining": "e\u0301",
    "words": "all work and no play ",
    "control": "\x01",
    "unsorted": "\u0315\u0316",
    "missing": "a\x04 ",
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *itertools.product(["llama3", "smollm2", "qwen3"], LONG),
        *itertools.product(["spm"], ["letter", "space", "emoji", "words"]),
    ],
)
def test_a_megabyte_takes_linear_time(name: str, kind: str, request: pytest.FixtureRequest) -> None:
    """In long runs without a border between pieces, encoders can need quadratic time or overflow a stack."""
    tokenizer: Tokenizer = request.getfixturevalue(name)
    text = (LONG[kind] * 1_000_000)[:1_000_000]
    started = time.process_time()
    ids = tokenizer.encode(text, bos=False)
    assert time.process_time() - started < 20  # usually at most 1 second; quadratic time would be hours
    kept = text.replace("\x04", "") if name == "smollm2" else text
    if name == "qwen3":
        kept = normalizers.NFC().normalize_str(text)
    assert tokenizer.decode(ids) == kept


@pytest.mark.parametrize("name", ["llama3", "smollm2"])
def test_runs_too_long_for_tiktoken_are_cut_alike(name: str, request: pytest.FixtureRequest) -> None:
    """Beyond half a million spaces, Python splits the text; the ids are still those of Hugging Face's tokenizers."""
    tokenizer: Tokenizer = request.getfixturevalue(name)
    oracle = hugging_face_llama3() if name == "llama3" else hugging_face_smollm2()
    around = "".join(mixed_texts(200, seed=9))
    texts = [f"{around} x{' ' * 600_000}{end}" for end in ("", "x", "7", "\n", "\n y")]
    assert ids_of(tokenizer, texts, special=False) == hugging_face_ids(oracle, texts, special=False)


# Special tokens


def test_text_never_becomes_a_special_token_unless_asked(llama3: Tokenizer) -> None:
    text = "<|begin_of_text|>hi<|eot_id|>"
    plain = llama3.encode(text)
    assert plain[0] == 128_000
    assert max(plain[1:]) < 128_000
    assert llama3.decode(plain) == text
    assert llama3.encode(text, special=True) == [128_000, *llama3.encode("hi", bos=False), 128_009]


def test_a_text_that_begins_with_the_bos_token_gets_no_second_one(llama3: Tokenizer, smollm2: Tokenizer) -> None:
    assert llama3.encode("hi")[0] == 128_000
    for bos in (None, True):
        assert llama3.encode("<|begin_of_text|>hi", bos=bos, special=True).count(128_000) == 1
    assert llama3.encode("hi", bos=False)[0] != 128_000
    assert smollm2.encode("hi", bos=True)[0] == 1
    assert smollm2.encode("hi")[0] != 1
    assert llama3.encode("") == [128_000]
    assert smollm2.encode("") == []


def test_bos_without_a_bos_token_is_one_line(tmp_path: Path) -> None:
    path = write_vocabulary_gguf(tmp_path / "m.gguf", model="gpt2", tokens=[*BYTES, "ab"], merges=["a b"], pre="gpt-2")
    with pytest.raises(Llama3Error, match="has no beginning-of-sequence token"):
        Tokenizer.from_path(path).encode("a", bos=True)


def test_user_defined_tokens_are_found_in_any_text(tmp_path: Path) -> None:
    """They are recognized before the text is split, the longest first; control tokens only if asked for."""
    added = {"<tool>": TokenType.USER_DEFINED, "<tool>s": TokenType.USER_DEFINED, "<end>": TokenType.CONTROL}
    tokens = [*BYTES, "ab", *added]
    types = [TokenType.NORMAL] * 257 + list(added.values())
    path = write_vocabulary_gguf(
        tmp_path / "m.gguf", model="gpt2", tokens=tokens, types=types, merges=["a b"], pre="gpt-2"
    )
    tokenizer = Tokenizer.from_path(path)
    oracle = hugging_face_bpe(tokens[:257], ["a b"])
    oracle.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    oracle.add_tokens([AddedToken(token, special=False, normalized=False) for token in ("<tool>", "<tool>s")])
    oracle.add_special_tokens([AddedToken("<end>", special=True, normalized=False)])
    texts = ["ab<tool>ab", "<tool>s <tool> s", "<tool><end><tool>s", "<tool", "<<tool>>"]
    for special in (False, True):
        expected = hugging_face_ids(oracle, texts, special=special)
        assert ids_of(tokenizer, texts, special=special) == expected
    assert tokenizer.decode(tokenizer.encode("a<tool>s<end>", special=True)) == "a<tool>s"


# Text


@pytest.mark.parametrize("name", ["llama3", "spm"])
def test_decoding_gives_the_text_back(name: str, request: pytest.FixtureRequest) -> None:
    """SentencePiece cannot restore U+2581, or the space that it adds after #include, so these texts are skipped."""
    tokenizer: Tokenizer = request.getfixturevalue(name)
    for text in mixed_texts(3000):
        if name == "llama3" or not re.search("\u2581|#include", text):
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_lone_surrogates_count_as_replacement_characters(llama3: Tokenizer) -> None:
    assert llama3.encode("a\ud800b\udcff") == llama3.encode("a\ufffdb\ufffd")
    assert llama3.encode("\ud83d\udc4d") == llama3.encode("👍")


def test_tokens_give_bytes_and_incomplete_characters_are_replaced(llama3: Tokenizer) -> None:
    ids = llama3.encode("👍", bos=False)
    assert b"".join(llama3.token_bytes(token_id) for token_id in ids) == "👍".encode()
    assert llama3.decode(ids[:1]) == "\ufffd"
    assert llama3.token_bytes(128_009) == b""
    for token_id in (-1, 128_256):
        with pytest.raises(Llama3Error, match=f"has no token {token_id}, only 128256"):
            llama3.token_bytes(token_id)


# SentencePiece


@pytest.mark.parametrize("special", [False, True])
def test_sentencepiece_vocabularies_encode_as_their_own_model_does(spm: Tokenizer, special: bool) -> None:
    """The model is rebuilt from a GGUF's tokens, scores and types; the original is the oracle."""
    original = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    texts = [text for text in mixed_texts(3000) if not re.search("</?s>|<unk>|#include", text)]
    assert differences(texts, ids_of(spm, texts, special=special), original.encode(texts)) == []


def test_sentencepiece_is_the_same_from_its_own_file(spm: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece_model())
    tokenizer = Tokenizer.from_path(path)
    texts = mixed_texts(1000)
    assert ids_of(tokenizer, texts, special=True) == ids_of(spm, texts, special=True)
    assert (tokenizer.bos_id, tokenizer.eog_ids, tokenizer.adds_bos) == (1, frozenset({2}), True)


def test_a_space_is_put_before_text_and_after_special_tokens(spm: Tokenizer, tmp_path: Path) -> None:
    space_a = spm.encode("a", bos=False)
    assert spm.decode(space_a) == "a"
    assert b"".join(map(spm.token_bytes, space_a)) == b" a"
    assert spm.encode("<s>a</s>a", special=True) == [1, *space_a, 2, *space_a]
    plain = Tokenizer.from_path(write_sentencepiece_gguf(tmp_path / "plain.gguf", add_space_prefix=False))
    assert b"".join(map(plain.token_bytes, plain.encode("a"))) == b"a"


@pytest.mark.parametrize("changes", [{}, {"add_space_prefix": False}])
def test_sentencepiece_encodes_as_llama_cpp_does(tmp_path: Path, changes: dict[str, bool]) -> None:
    """This includes user-defined and special tokens."""
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    path = write_sentencepiece_gguf(tmp_path / "spm.gguf", **changes)
    tokenizer = Tokenizer.from_path(path)
    texts = [*mixed_texts(2000), "<user>a<user> #include <s>", "</s><user>"]
    for special in (False, True):
        theirs = llama_cpp_oracle.tokenize(path, texts, special=special)
        assert differences(texts, ids_of(tokenizer, texts, special=special), theirs) == []


def test_byte_level_encodes_as_llama_cpp_does(smollm2: Tokenizer) -> None:
    """Control characters, which llama.cpp drops after merging, and runs that it merges differently are skipped."""
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    texts = [text for text in mixed_texts(2000) if text.isprintable() and "''''" not in text]
    theirs = llama_cpp_oracle.tokenize(smollm2_gguf(), texts, special=True)
    assert differences(texts, ids_of(smollm2, texts, special=True), theirs) == []
