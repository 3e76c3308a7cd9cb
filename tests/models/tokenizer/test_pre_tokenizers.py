"""Text is split into the same pieces as by the original tokenizers, and every name means the same as in llama.cpp."""

import json
import os
import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import regex
from gguf import TokenType
from llama3_exporter.tokenizers.text_rewrites import can_cut
from llama3_models.errors import Llama3Error
from llama3_models.tokenizer.byte_alphabet import CHARACTER_OF_BYTE
from llama3_models.tokenizer.pre_tokenizers import (
    _BY_KIND,
    FALCON,
    LLAMA3,
    PRE_TOKENIZERS,
    PreTokenizer,
    pre_tokenizer_of,
)
from llama3_runtime.text.cutting import Cutter
from llama3_runtime.text.tokenizer import Tokenizer
from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as HuggingFaceTokenizer

from tests.support.paths import DOCS
from tests.support.texts import mixed_texts
from tests.support.vocabularies import QWEN2_SPLIT, llama3_tokenizer_json, write_vocabulary_gguf

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


QWEN35_AS_PUBLISHED = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BAILING_AS_PUBLISHED = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
EXAONE_MOE_AS_PUBLISHED = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
BLOOM_AS_PUBLISHED = r" ?[^(\s|[.,!?…。，、।۔،])]+"
DEEPSEEK_V3_AS_PUBLISHED = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)


def sequence(*steps: pre_tokenizers.PreTokenizer | str) -> pre_tokenizers.PreTokenizer:
    """Build Hugging Face's pre-tokenizer; an expression is a Split whose matches are pieces."""
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(step), "isolated") if isinstance(step, str) else step for step in steps]
    )


GPT2_STEP = pre_tokenizers.ByteLevel(add_prefix_space=False)
SPELL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

# The published forms, one name per kind. For the names that are missing, no tokenizer.json was available.
ORIGINALS = {
    "gpt-2": GPT2_STEP,
    "smollm": sequence(pre_tokenizers.Digits(True), GPT2_STEP),
    "llama-bpe": sequence(LLAMA3_AS_PUBLISHED["pretokenizers"][0]["pattern"]["Regex"]),
    "tekken": sequence(TEKKEN_AS_PUBLISHED),
    "gpt-4o": sequence(GPT4O_AS_PUBLISHED),
    "tiny_aya": sequence(r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O_AS_PUBLISHED),
    "qwen2": sequence(QWEN2_SPLIT),
    "qwen35": sequence(QWEN35_AS_PUBLISHED),
    "seed-coder": sequence(SEED_CODER_AS_PUBLISHED),
    "minicpm5": sequence(*MINICPM5_AS_PUBLISHED),
    "bailingmoe": sequence(BAILING_AS_PUBLISHED),
    "exaone-moe": sequence(EXAONE_MOE_AS_PUBLISHED),
    "laguna": sequence(pre_tokenizers.Split(Regex(r"(?:\r?\n)+(?!\r?\n)"), "merged_with_next"), QWEN2_SPLIT),
    "bloom": sequence(BLOOM_AS_PUBLISHED),
    "viking": sequence(BLOOM_AS_PUBLISHED, pre_tokenizers.Digits(True)),
    "deepseek-coder": sequence("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", pre_tokenizers.Digits(True)),
    "deepseek-v3": sequence(*DEEPSEEK_V3_AS_PUBLISHED),
    "superbpe": sequence(r"\p{N}+", r"(?=(\d{3})+(?!\d))"),
}


@pytest.mark.parametrize("name", ORIGINALS)
def test_pieces_are_those_of_the_original(name: str) -> None:
    cutter = Cutter(PRE_TOKENIZERS[name])
    for text in mixed_texts(3000):
        pieces = [text[start:end] for _, (start, end) in ORIGINALS[name].pre_tokenize_str(text)]
        assert list(cutter.pieces(text)) == pieces, ascii(text)


KINDS = {names.split()[0]: kind for kind, names in _BY_KIND}


def from_json(described: Mapping[str, Any]) -> pre_tokenizers.PreTokenizer:
    """Load the `pre_tokenizer` of a tokenizer.json into Hugging Face's library."""
    tokenizer = json.loads(HuggingFaceTokenizer(models.BPE()).to_str())
    return HuggingFaceTokenizer.from_str(json.dumps(tokenizer | {"pre_tokenizer": described})).pre_tokenizer


@pytest.mark.parametrize("name", KINDS)
def test_a_tokenizer_json_cuts_as_the_runtime_does(name: str) -> None:
    """This covers the form written for other programs, and the published form if it is different."""
    kind = KINDS[name]
    cutter, steps = Cutter(kind), Cutter(PreTokenizer(kind.steps))
    forms = [kind.hugging_face]
    if kind.as_published is not None and kind is not FALCON:  # splits within characters: see below
        forms.append(kind.as_published)
    originals = list(map(from_json, forms))
    for text in mixed_texts(1500, seed=7):
        pieces = list(cutter.pieces(text))
        assert list(steps.pieces(text)) == pieces, ascii(text)
        for original in originals:
            assert [text[start:end] for _, (start, end) in original.pre_tokenize_str(text)] == pieces, ascii(text)


def test_falcon_as_published() -> None:
    """It splits spelled bytes, and so characters, but a vocabulary made that way has few tokens that show it."""
    assert FALCON.as_published is not None
    original = HuggingFaceTokenizer(models.BPE())
    original.pre_tokenizer = from_json(FALCON.as_published)
    original.train_from_iterator(mixed_texts(4000, seed=3), bpe_trainer())
    described = json.loads(original.to_str())["model"]
    ours = HuggingFaceTokenizer(original.model)
    ours.pre_tokenizer = from_json(FALCON.hugging_face)
    assert len(described["merges"]) > 1000
    texts = mixed_texts(3000)
    differ = [text for text in texts if original.encode(text).ids != ours.encode(text).ids]
    assert all(regex.search(r"[^\P{N}0-9][0-9]", text) for text in differ)  # there may be a token for half of ³ and a 4
    assert len(differ) < len(texts) / 10


def bpe_trainer() -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=3000, initial_alphabet=list(CHARACTER_OF_BYTE.values()), show_progress=False, min_frequency=2
    )


@cache
def small_vocabulary() -> tuple[list[str], list[str]]:
    """Return a vocabulary and its merges, with tokens that cross spaces, digits, line ends and punctuation.

    So if the pieces differ, the ids also differ.
    """
    trained = HuggingFaceTokenizer(models.BPE())
    trained.pre_tokenizer = SPELL
    trained.train_from_iterator(mixed_texts(4000, seed=3), bpe_trainer())
    tokens, merges = list(CHARACTER_OF_BYTE.values()), []
    for left, right in json.loads(trained.to_str())["model"]["merges"]:
        if left + right not in tokens:
            tokens.append(left + right)
            merges.append(f"{left} {right}")
    return [*tokens, "<|first|>"], merges


def write_small(path: Path, name: str) -> Path:
    tokens, merges = small_vocabulary()
    types = [TokenType.NORMAL] * (len(tokens) - 1) + [TokenType.CONTROL]
    return write_vocabulary_gguf(
        path, model="gpt2", pre=name, tokens=tokens, types=types, merges=merges, bos_token_id=len(tokens) - 1
    )


# Text that llama.cpp splits differently, because its expressions are simpler than the models' own (`llama-vocab.cpp`)
# or its library matches less (`unicode.cpp`).
SIMPLER_IN_LLAMA_CPP = {
    **dict.fromkeys(  # marks are not part of words, and only ASCII letters have a case
        ("tekken", "gpt-4o"), r"\p{M}|\p{Lt}|[^\P{Lu}A-Z]|[^\P{Ll}a-z]"
    ),
    "tiny_aya": r"[^\x00-\x7f]",  # digits are also grouped before letters
    "youtu": r"\p{M}|\p{Lt}|[^\P{Lu}A-Z]|[^\P{Ll}a-z]|[a-z][A-Z]",  # every letter is both upper and lower case
    "laguna": r"\n",  # line ends are separate pieces
    "falcon": r" \p{N}|[^\P{N}0-9]",  # a number includes the space before it
    "deepseek-llm": r"\p{N}\p{N}|[^\S \t-\r]",  # digits stay together; ideographs do not include white space
    "deepseek-coder": r"[^\S \t-\r]",
    "superbpe": r"[^\P{N}0-9]",  # only ASCII digits count
}


def texts_for_llama_cpp(name: str) -> list[str]:
    """Return texts that llama.cpp splits like the models' own tokenizers."""
    kind = PRE_TOKENIZERS[name]
    simpler = next((found for like, found in SIMPLER_IN_LLAMA_CPP.items() if PRE_TOKENIZERS[like] == kind), None)
    texts = [text for text in mixed_texts(1000) if "''''" not in text]  # it orders equal merges in a run differently
    if kind.nfc:  # llama.cpp does not normalize
        texts = [text for text in texts if unicodedata.is_normalized("NFC", text)]
    if simpler is not None:
        texts = [text for text in texts if not regex.search(simpler, text)]
    assert len(texts) > 80
    return texts


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_a_name_means_what_it_means_to_llama_cpp(name: str, tmp_path: Path) -> None:
    """The ids are the same, and so is the default for the beginning-of-sequence token."""
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    path = write_small(tmp_path / "small.gguf", name)
    texts = texts_for_llama_cpp(name)
    tokenizer = Tokenizer.from_path(path)
    theirs = llama_cpp_oracle.tokenize(path, texts)
    assert [tokenizer.encode(text, bos=False) for text in texts] == theirs
    assert tokenizer.adds_bos == llama_cpp_oracle.adds_bos(path)


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_a_tokenizer_json_is_recognized_by_how_it_cuts(name: str) -> None:
    known = PRE_TOKENIZERS[name]
    for form in (known.hugging_face, known.as_published or known.hugging_face):
        found = pre_tokenizer_of(form, ignore_merges=known.ignore_merges, nfc=known.nfc, source="x")
        assert (found.steps, found.ignore_merges, found.nfc) == (known.steps, known.ignore_merges, known.nfc)


def test_what_cuts_otherwise_is_refused() -> None:
    assert pre_tokenizer_of(LLAMA3_AS_PUBLISHED, ignore_merges=True, nfc=False, source="x") == LLAMA3
    with pytest.raises(Llama3Error, match="x: unknown pre_tokenizer"):
        pre_tokenizer_of({"type": "Whitespace"}, ignore_merges=True, nfc=False, source="x")


def test_the_page_lists_every_name() -> None:
    page = (DOCS / "pre-tokenizers.md").read_text(encoding="utf-8")
    listed = page.split("These names are known:")[1].split(".\n\n")[0]
    assert re.findall("`(.+?)`", listed) == sorted(PRE_TOKENIZERS)
    graphs = page.split("[Tokenizer graphs]")[1]
    without = {name for name, kind in PRE_TOKENIZERS.items() if not can_cut(kind)}
    assert without == set(re.findall("`(.+?)`", graphs))


def test_a_file_without_a_name_is_cut_as_llama_cpp_does(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    tokens, merges = small_vocabulary()
    path = write_vocabulary_gguf(tmp_path / "old.gguf", model="gpt2", tokens=tokens, merges=merges)
    texts = texts_for_llama_cpp("default")
    tokenizer = Tokenizer.from_path(path)
    assert tokenizer.vocabulary.warnings
    assert [tokenizer.encode(text) for text in texts] == llama_cpp_oracle.tokenize(path, texts)


VOCABULARIES = os.environ.get("LLAMA3_TEST_VOCABULARIES", "")


@pytest.mark.skipif(not VOCABULARIES, reason="set LLAMA3_TEST_VOCABULARIES to a folder of ggml-vocab-*.gguf")
@pytest.mark.parametrize(
    "name", ["deepseek-coder", "deepseek-llm", "falcon", "gpt-2", "llama-spm", "mpt", "phi-3", "refact", "starcoder"]
)
def test_the_vocabularies_of_ik_llama_cpp(name: str) -> None:
    """That repository's models/ has whole vocabularies, with texts and their ids from Hugging Face's tokenizers."""
    path = Path(VOCABULARIES) / f"ggml-vocab-{name}.gguf"
    texts = Path(f"{path}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    theirs = [list(map(int, line.split())) for line in Path(f"{path}.out").read_text(encoding="utf-8").splitlines()]
    tokenizer = Tokenizer.from_path(path)
    assert [tokenizer.encode(text, bos=False) for text in texts[: len(theirs)]] == theirs
