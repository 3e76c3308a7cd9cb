"""Text is cut into the pieces that the original tokenizers cut, and every name means what it means to llama.cpp."""

import json
import unicodedata
from pathlib import Path

import pytest
import regex
from gguf import TokenType
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile
from llama3_models.tokenizer.byte_alphabet import CHARACTER_OF_BYTE
from llama3_models.tokenizer.pre_tokenizers import (
    DIGITS_THEN_GPT2,
    GPT2,
    GPT4O,
    LLAMA3,
    NUMBERS_THEN_LLAMA3,
    PRE_TOKENIZERS,
    QWEN2,
    SEED_CODER,
    TEKKEN,
    PreTokenizer,
    pre_tokenizer_of,
)
from llama3_runtime.text.tokenizer import Tokenizer
from tokenizers import Regex, pre_tokenizers

from tests.support.texts import mixed_texts
from tests.support.vocabularies import QWEN2_SPLIT, llama3_tokenizer_json, smollm2_gguf, write_vocabulary_gguf

LLAMA3_AS_PUBLISHED = json.loads(llama3_tokenizer_json().read_text(encoding="utf-8"))["pre_tokenizer"]
TEKKEN_AS_PUBLISHED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?"
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O_AS_PUBLISHED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SEED_CODER_AS_PUBLISHED = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\r\n]+|\\s*[\r\n]+"
    "|\\s+(?!\\S)|\\s+"
)
MINICPM5_AS_PUBLISHED = (
    r"\p{N}{1,3}",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
)


def split(*patterns: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns])


ORIGINALS = {
    "gpt2": (GPT2, pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "smollm": (
        DIGITS_THEN_GPT2,
        pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    ),
    "llama3": (LLAMA3, split(LLAMA3_AS_PUBLISHED["pretokenizers"][0]["pattern"]["Regex"])),
    "tekken": (TEKKEN, split(TEKKEN_AS_PUBLISHED)),
    "gpt4o": (GPT4O, split(GPT4O_AS_PUBLISHED)),
    "qwen2": (QWEN2, split(QWEN2_SPLIT)),
    "seed-coder": (SEED_CODER, split(SEED_CODER_AS_PUBLISHED)),
    "minicpm5": (NUMBERS_THEN_LLAMA3, split(*MINICPM5_AS_PUBLISHED)),
}


@pytest.mark.parametrize(("pre_tokenizer", "original"), ORIGINALS.values(), ids=ORIGINALS)
def test_pieces_are_those_of_the_original(pre_tokenizer: PreTokenizer, original: pre_tokenizers.PreTokenizer) -> None:
    pattern = regex.compile(pre_tokenizer.pattern)
    for text in mixed_texts(3000):
        pieces = [text[start:end] for _, (start, end) in original.pre_tokenize_str(text)]
        assert pattern.findall(text) == pieces, ascii(text)


@pytest.fixture(scope="module")
def small_vocabulary() -> tuple[list[str], list[str]]:
    """The bytes, the tokens of SmolLM2's first merges, and these merges."""
    with GGUFFile.open(smollm2_gguf()) as file:
        merges = file.get_strings("tokenizer.ggml.merges")[:4000]
    return [*CHARACTER_OF_BYTE.values(), *(merge.replace(" ", "") for merge in merges), "<s>"], merges


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_a_name_means_what_it_means_to_llama_cpp(
    name: str, small_vocabulary: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    """The same ids, and the same default for the beginning of sequence."""
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    tokens, merges = small_vocabulary
    types = [TokenType.NORMAL] * (len(tokens) - 1) + [TokenType.CONTROL]
    path = write_vocabulary_gguf(
        tmp_path / "small.gguf", model="gpt2", pre=name, tokens=tokens, types=types, merges=merges, bos_token_id=4256
    )
    # Of equal merges in a run it takes others first.
    texts = [text for text in mixed_texts(1000) if "''''" not in text]
    if PRE_TOKENIZERS[name] in (TEKKEN, GPT4O):
        # llama.cpp has simpler expressions for these, in which marks are no part of words.
        texts = [text for text in texts if not any(unicodedata.category(c).startswith("M") for c in text)]
    if PRE_TOKENIZERS[name].nfc:  # llama.cpp does not normalize
        texts = [text for text in texts if unicodedata.is_normalized("NFC", text)]
        assert len(texts) > 500
    tokenizer = Tokenizer.from_path(path)
    theirs = llama_cpp_oracle.tokenize(path, texts)
    assert [tokenizer.encode(text, bos=False) for text in texts] == theirs
    assert tokenizer.adds_bos == llama_cpp_oracle.adds_bos(path)


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_a_tokenizer_json_is_recognized_by_how_it_cuts(name: str) -> None:
    known = PRE_TOKENIZERS[name]
    for form in (known.hugging_face, known.as_published or known.hugging_face):
        found = pre_tokenizer_of(form, ignore_merges=known.ignore_merges, nfc=known.nfc, source="x")
        assert (found.pattern, found.ignore_merges, found.nfc) == (known.pattern, known.ignore_merges, known.nfc)


def test_what_cuts_otherwise_is_refused() -> None:
    assert pre_tokenizer_of(LLAMA3_AS_PUBLISHED, ignore_merges=True, nfc=False, source="x") == LLAMA3
    with pytest.raises(Llama3Error, match="x: its pre_tokenizer is not one that is known"):
        pre_tokenizer_of({"type": "Whitespace"}, ignore_merges=True, nfc=False, source="x")
