"""Added tokens that affect the text around them have the same effect as in Hugging Face's tokenizers."""

from __future__ import annotations

import json
import random
from itertools import product
from pathlib import Path

import pytest
from llama3_models.tokenizer.byte_alphabet import CHARACTER_OF_BYTE
from llama3_runtime import Tokenizer
from tokenizers import Tokenizer as HuggingFaceTokenizer

from tests.support.vocabularies import hugging_face_ids

# Texts around tokens: ASCII, letters, marks, digits, connectors, joiners, white space and what looks like it.
PARTS = [
    *" \t\n\r\v\f\x1c\x1f\x85\xa0\u2003\u2028\u3000\u200b\ufeff",
    *"a1_-é\u0301日٣²Ⅷ\u200d\u203f👍ª",
    "  ",
    "word",
]


def write(folder: Path) -> tuple[Path, list[str]]:
    """Write a vocabulary of the bytes, a token for each combination of settings, and a token of two spaces."""
    rules = list(product([False, True], repeat=4))
    texts = [f"<{number}>" for number in range(len(rules))]
    first = len(CHARACTER_OF_BYTE)
    added = [
        {
            "id": first + number,
            "content": text,
            "lstrip": lstrip,
            "rstrip": rstrip,
            "single_word": single_word,
            "special": special,
            "normalized": False,
        }
        for number, (text, (lstrip, rstrip, single_word, special)) in enumerate(zip(texts, rules, strict=True))
    ]
    spaces = {"lstrip": False, "rstrip": False, "single_word": False, "special": False, "normalized": False}
    added.append({"id": first + len(added), "content": "  ", **spaces})
    vocab = {character: byte for byte, character in CHARACTER_OF_BYTE.items()}
    content = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path, texts


@pytest.mark.parametrize("special", [False, True])
def test_ids_are_hugging_face_s(tmp_path: Path, special: bool) -> None:
    path, tokens = write(tmp_path)
    rng = random.Random(4)
    texts = ["".join(rng.choices([*PARTS, *tokens], k=rng.randint(1, 9))) for _ in range(4000)]
    texts += [before + token + after for token in tokens for before in PARTS for after in PARTS]
    expected = hugging_face_ids(HuggingFaceTokenizer.from_file(str(path)), texts, special=special)
    tokenizer = Tokenizer.from_path(path)
    wrong = [text for text, ids in zip(texts, expected, strict=True) if tokenizer.encode(text, special=special) != ids]
    assert wrong == []
