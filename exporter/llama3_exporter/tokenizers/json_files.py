"""The tokenizer of an export folder for other programs: tokenizer.json and tokenizer_config.json.

The formats are those of Hugging Face's `tokenizers` and `transformers`. With these files, both return the same ids as
the runtime. onnxruntime-genai and onnx-genai also read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from llama3_models.errors import Llama3Error
from llama3_models.tokenizer.splits import splits
from llama3_models.tokenizer.vocabulary import FOUND_BY_TEXT, ByteLevelBPE, SentencePieceBPE, TokenType, Vocabulary

_SPACE = "\u2581"  # how SentencePiece spells it
# Llama 3's merges have 4 million characters.
_LONGEST_MERGES: Final = 200_000_000
_USED = tuple(type_ for type_ in TokenType if type_ != TokenType.UNUSED)


def tokenizer_json(vocabulary: Vocabulary) -> dict[str, Any]:
    """Build the contents of tokenizer.json."""
    if isinstance(vocabulary.model, ByteLevelBPE):
        parts = _byte_level(vocabulary, vocabulary.model)
    else:
        parts = _sentencepiece(vocabulary, vocabulary.model)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added_token(token_id, token, special=vocabulary.types[token_id] != TokenType.USER_DEFINED)
            for token, token_id in vocabulary.ids_by_text(*FOUND_BY_TEXT).items()
        ],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": _bos_template(vocabulary) if vocabulary.adds_bos else None,
        **parts,
    }


def tokenizer_config(vocabulary: Vocabulary) -> dict[str, Any]:
    """Build the contents of tokenizer_config.json."""

    def text(token_id: int | None) -> str | None:
        return None if token_id is None else vocabulary.tokens[token_id]

    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "add_bos_token": vocabulary.adds_bos,
        "add_eos_token": False,
        "bos_token": text(vocabulary.bos_id),
        "eos_token": text(vocabulary.eos_id),
        "unk_token": text(vocabulary.unk_id),
        # It pads the rows of a batch, where the mask is zero, so any token will do.
        "pad_token": text(vocabulary.eos_id if vocabulary.pad_id is None else vocabulary.pad_id),
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "chat_template": vocabulary.chat_template,
    }
    return {key: value for key, value in config.items() if value is not None}


def _byte_level(vocabulary: Vocabulary, model: ByteLevelBPE) -> dict[str, Any]:
    ids = vocabulary.ids_by_text(*_USED)
    merges = model.merges
    if merges is None:
        normal = vocabulary.ids_by_text(TokenType.NORMAL)
        merges = _all_merges(normal, normal, vocabulary.source)
    missing_byte_id = vocabulary.missing_byte_id
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "normalizer": {"type": "NFC"} if model.pre_tokenizer.nfc else None,
        "pre_tokenizer": dict(model.pre_tokenizer.hugging_face),
        "decoder": byte_level,
        "model": {
            **_bpe(ids, merges, ignore_merges=model.pre_tokenizer.ignore_merges),
            "unk_token": None if missing_byte_id is None else vocabulary.tokens[missing_byte_id],
            "fuse_unk": model.fuses_unknown,
        },
    }


def _sentencepiece(vocabulary: Vocabulary, model: SentencePieceBPE) -> dict[str, Any]:
    ids = vocabulary.ids_by_text(*_USED)
    normal = vocabulary.ids_by_text(TokenType.NORMAL)
    by_score = sorted(normal, key=lambda token: -model.scores[normal[token]])
    prepend = [{"type": "Prepend", "prepend": _SPACE}] if model.add_space_prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if model.add_space_prefix else []
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    unreplace = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
        "decoder": {"type": "Sequence", "decoders": [unreplace, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": {
            **_bpe(ids, _all_merges(by_score, normal, vocabulary.source), ignore_merges=False),
            "unk_token": None if vocabulary.unk_id is None else vocabulary.tokens[vocabulary.unk_id],
            "fuse_unk": True,
            "byte_fallback": TokenType.BYTE in vocabulary.types,
        },
    }


def _all_merges(tokens: Iterable[str], ids: Mapping[str, int], source: Path) -> list[str]:
    """List every pair of tokens that forms one of `tokens`, up to a limit: there can be quadratically many."""
    merges: list[str] = []
    size = 0
    for token, middles in splits(tokens, ids):
        size += len(middles) * len(token)
        if size > _LONGEST_MERGES:
            raise Llama3Error(
                f"{source}: token {ids[token]} ({len(token):,} characters) splits into two other tokens in "
                f"{len(middles):,} ways; listing these and earlier pairs in tokenizer.json needs more than "
                f"{_LONGEST_MERGES:,} characters; use another model"
            )
        merges += [f"{token[:middle]} {token[middle:]}" for middle in middles]
    return merges


def _bpe(ids: dict[str, int], merges: Any, *, ignore_merges: bool) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": ignore_merges,
        "vocab": ids,
        "merges": list(merges),
    }


def _added_token(token_id: int, token: str, *, special: bool) -> dict[str, Any]:
    strips = {"single_word": False, "lstrip": False, "rstrip": False}
    return {"id": token_id, "content": token, **strips, "normalized": False, "special": special}


def _bos_template(vocabulary: Vocabulary) -> dict[str, Any]:
    """Build the rule that puts the beginning-of-sequence token before a text, and before each text of a pair."""
    assert vocabulary.bos_id is not None  # because of `adds_bos`
    bos = vocabulary.tokens[vocabulary.bos_id]
    first, second = (
        [{"SpecialToken": {"id": bos, "type_id": type_id}}, {"Sequence": {"id": name, "type_id": type_id}}]
        for type_id, name in enumerate("AB")
    )
    return {
        "type": "TemplateProcessing",
        "single": first,
        "pair": [*first, *second],
        "special_tokens": {bos: {"id": bos, "ids": [vocabulary.bos_id], "tokens": [bos]}},
    }
