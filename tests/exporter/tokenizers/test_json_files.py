"""The written tokenizer has the same ids in Hugging Face's tokenizers, and when the runtime reads it back."""

import json
from pathlib import Path

import pytest
import tokenizers
from gguf import TokenType
from llama3_exporter.tokenizers.json_files import tokenizer_config, tokenizer_json
from llama3_models.tokenizer.byte_alphabet import CHARACTER_OF_BYTE
from llama3_models.tokenizer.files import read_vocabulary
from llama3_models.tokenizer.vocabulary import Vocabulary
from llama3_runtime.text.tokenizer import Tokenizer

from tests.support.texts import mixed_texts
from tests.support.vocabularies import (
    CHATML_TEMPLATE,
    hugging_face_ids,
    hugging_face_qwen3,
    llama3_tokenizer_model,
    smollm2_gguf,
    without_newer_marks,
    write_llama3_gguf,
    write_qwen3_gguf,
    write_sentencepiece_gguf,
    write_vocabulary_gguf,
)

SOURCES = ["smollm2", "llama3", "qwen3", "meta", "spm", "spm without space", "added"]


@pytest.fixture(params=SOURCES, scope="module")
def vocabulary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    path = tmp_path_factory.mktemp("source") / "model.gguf"
    match request.param:
        case "smollm2":
            path = smollm2_gguf()
        case "llama3":
            write_llama3_gguf(path, eot_token_id=128_009)
        case "qwen3":
            write_qwen3_gguf(path)
        case "meta":
            path = llama3_tokenizer_model()
        case "spm":
            write_sentencepiece_gguf(path)
        case "spm without space":
            write_sentencepiece_gguf(path, add_space_prefix=False, add_bos_token=False)
        case "added":  # user-defined and unused tokens, one that no merge forms, and no end-of-sequence token
            added = [TokenType.USER_DEFINED, TokenType.CONTROL, TokenType.UNUSED, TokenType.USER_DEFINED]
            write_vocabulary_gguf(
                path,
                model="gpt2",
                tokens=[*CHARACTER_OF_BYTE.values(), "ab", "orphan", "<user>", "<|eot_id|>", "[PAD]", "don't"],
                types=[TokenType.NORMAL] * 258 + added,
                merges=["a b"],
                pre="tekken",
            )
    return read_vocabulary(path)


@pytest.fixture(scope="module")
def folder(vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the tokenizer files of an export folder."""
    folder = tmp_path_factory.mktemp("export")
    config = tokenizer_config(vocabulary)
    ends = {"eos_token_id": sorted(vocabulary.eog_ids)}
    for name, content in (
        ("tokenizer.json", tokenizer_json(vocabulary)),
        ("tokenizer_config.json", config),
        ("generation_config.json", ends),
    ):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def original(vocabulary: Vocabulary) -> Tokenizer:
    return Tokenizer(vocabulary)


@pytest.fixture(scope="module")
def read_back(folder: Path) -> Tokenizer:
    return Tokenizer.from_path(folder)


@pytest.fixture(scope="module")
def hugging_face(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("special", [False, True])
def test_hugging_face_and_the_runtime_read_the_same_tokenizer(
    original: Tokenizer, read_back: Tokenizer, hugging_face: tokenizers.Tokenizer, special: bool
) -> None:
    texts = [*without_newer_marks(mixed_texts()), "<user>ab<user> don't orphan<|eot_id|>[PAD]"]
    theirs = hugging_face_ids(hugging_face, texts, special=special)
    for text, expected in zip(texts, theirs, strict=True):
        assert original.encode(text, bos=False, special=special) == expected, ascii(text)
        assert read_back.encode(text, bos=False, special=special) == expected, ascii(text)


def test_the_rules_survive(original: Tokenizer, read_back: Tokenizer, hugging_face: tokenizers.Tokenizer) -> None:
    """BOS, end tokens and chat template come back from the folder; BOS comes first if the file says so."""
    assert read_back.bos_id == original.bos_id
    assert read_back.adds_bos == original.adds_bos
    assert read_back.eog_ids == original.eog_ids
    assert read_back.chat_template == original.chat_template
    assert hugging_face.encode("hi").ids == original.encode("hi") == read_back.encode("hi")
    for text in ("hi there", "é日本\n  x"):
        ids = original.encode(text, bos=False)
        assert hugging_face.decode(ids) == original.decode(ids) == read_back.decode(ids)


def test_the_configuration_of_llama3(tmp_path: Path) -> None:
    vocabulary = read_vocabulary(write_llama3_gguf(tmp_path / "llama3.gguf", eos_token_id=128_009))
    assert tokenizer_config(vocabulary) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "pad_token": "<|eot_id|>",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
    }


def test_the_files_of_qwen3_are_those_of_the_original(tmp_path: Path) -> None:
    """They have the same ids as the original, and the GGUF's template."""
    vocabulary = read_vocabulary(write_qwen3_gguf(tmp_path / "qwen3.gguf"))
    written = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(vocabulary)))
    texts = mixed_texts()
    assert hugging_face_ids(written, texts, special=True) == hugging_face_ids(hugging_face_qwen3(), texts, special=True)
    assert tokenizer_config(vocabulary) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "chat_template": CHATML_TEMPLATE,
    }
