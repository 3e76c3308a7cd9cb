"""A text that several tokens share has one id: in the GGUF, in Hugging Face's tokenizers, and in an export read back.

llama.cpp cannot be the oracle here: it aborts on such a file, because it expects as many texts as tokens.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from gguf import TokenType
from llama3_exporter.tokenizers.graphs import tokenizer_graphs
from llama3_exporter.tokenizers.json_files import tokenizer_json
from llama3_exporter.tokenizers.read_back import check_tokenizer
from llama3_models.tokenizer.byte_alphabet import CHARACTER_OF_BYTE
from llama3_models.tokenizer.files import read_vocabulary
from llama3_models.tokenizer.vocabulary import Vocabulary
from llama3_runtime import Tokenizer
from onnxruntime_extensions import get_library_path
from tokenizers import Tokenizer as HuggingFaceTokenizer

from tests.support.vocabularies import hugging_face_ids, write_vocabulary_gguf

MERGES = ["Ġ t", "h e", "Ġt he", "i n", "e r", "Ġ a", "o n", "r e", "in g", "a n", "Ġa n", "Ġan d"]
FOUND = ["<dup>", "<|x|>", "<|y|>", "</s>", "日本"]
TEXTS = [
    "the rain and <dup> on</s> it<|x|><|y|>",
    "<dup><dup> the<|x|>the",
    "日本語 and 日本",
    "thing </s>",
    "an on in er",
    "<<dup>>",
]
TYPES = (TokenType.NORMAL, TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNUSED)


def with_duplicates(path: Path, kind: str, seed: int) -> Path:
    """Write a vocabulary with up to three tokens per special text, and with copies of merged tokens at the end."""
    rng = random.Random(seed)
    formed = [merge.replace(" ", "") for merge in MERGES]
    # A SentencePiece vocabulary with a normal token that no merge forms cannot be read back. A byte-level one with a
    # normal token that is not spelled in bytes has no graph.
    found = [
        (text, rng.choice(TYPES[kind == "llama" or not text.isascii() :]))
        for text in FOUND
        for _ in range(rng.randint(1, 3))
    ]
    rng.shuffle(found)
    again = [(rng.choice(formed), rng.choice(TYPES)) for _ in range(6)]
    if kind == "gpt2":
        plain = [*CHARACTER_OF_BYTE.values(), *formed]
        tokens = [*((token, TokenType.NORMAL) for token in plain), *found, *again]
        settings = {"merges": MERGES, "pre": rng.choice(["gpt-2", "llama-bpe"])}
    else:
        to_space = str.maketrans("Ġ", "\u2581")
        plain = ["\u2581", *map(chr, range(0x61, 0x7B)), *(token.translate(to_space) for token in formed)]
        first = [("<unk>", TokenType.UNKNOWN)] + [(f"<0x{byte:02X}>", TokenType.BYTE) for byte in range(256)]
        again = [(token.translate(to_space), type_) for token, type_ in again]
        tokens = [*first, *((token, TokenType.NORMAL) for token in plain), *found, *again]
        settings = {"scores": [-float(i) for i in range(len(tokens))], "unknown_token_id": 0, "add_bos_token": False}
        settings |= {"bos_token_id": 0, "eos_token_id": 0}
    texts, types = zip(*tokens, strict=True)
    return write_vocabulary_gguf(path, model=kind, tokens=texts, types=types, **settings)  # type: ignore[arg-type]


def graph_ids(vocabulary: Vocabulary) -> list[list[int]]:
    """Return the ids from tokenizer.onnx, which recognizes special tokens in texts."""
    options = ort.SessionOptions()
    options.register_custom_ops_library(get_library_path())
    session = ort.InferenceSession(tokenizer_graphs(vocabulary)["tokenizer.onnx"], options)
    rows, mask = session.run(["input_ids", "attention_mask"], {"text": np.array(TEXTS, dtype=object)})
    return [row[real == 1].tolist() for row, real in zip(rows, mask, strict=True)]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_text_has_one_id(kind: str, seed: int, tmp_path: Path) -> None:
    """It is the id of the first token that is not unused."""
    vocabulary = read_vocabulary(with_duplicates(tmp_path / "a.gguf", kind, seed))
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "tokenizer.json"
    path.write_text(json.dumps(tokenizer_json(vocabulary)), encoding="utf-8")
    ours, back = Tokenizer(vocabulary), Tokenizer.from_path(path)
    theirs = HuggingFaceTokenizer.from_file(str(path))
    for special in (False, True):
        expected = hugging_face_ids(theirs, TEXTS, special=special)
        for tokenizer in (ours, back):
            assert [tokenizer.encode(text, bos=False, special=special) for text in TEXTS] == expected
    assert graph_ids(vocabulary) == hugging_face_ids(theirs, TEXTS, special=True)
    for text in FOUND:
        of_text = zip(vocabulary.tokens, vocabulary.types, strict=True)
        first = next((i for i, (token, type_) in enumerate(of_text) if token == text and type_ != 5), None)
        if first is not None and vocabulary.types[first] in (TokenType.CONTROL, TokenType.USER_DEFINED):
            assert ours.encode(text, bos=False, special=True) == [first]


def test_the_export_notes_them(tmp_path: Path) -> None:
    vocabulary = read_vocabulary(
        write_vocabulary_gguf(
            tmp_path / "a.gguf",
            model="gpt2",
            tokens=[*CHARACTER_OF_BYTE.values(), "<dup>", "<dup>"],
            types=[TokenType.NORMAL] * 256 + [TokenType.CONTROL] * 2,
            merges=["a b"],
            pre="gpt-2",
        )
    )
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer_json(vocabulary)), encoding="utf-8")
    _, warning = check_tokenizer(tmp_path, vocabulary)
    assert "token 257 ('<dup>')" in str(warning)
