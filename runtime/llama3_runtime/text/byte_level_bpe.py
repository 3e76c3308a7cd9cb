"""Byte-level byte-pair encoding, with the ids of the model's own file.

tiktoken splits text into pieces with one regular expression and merges each piece's bytes by rank, in Rust. This module
computes ranks that follow the file's list of merges. It splits text itself if tiktoken cannot: with several
expressions, or a very long run of white space. `merge_list` merges if there are no such ranks, or if a piece has bytes
without a token.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Final

import tiktoken
from llama3_models.tokenizer.byte_alphabet import CHARACTER_OF_BYTE, read_bytes
from llama3_models.tokenizer.byte_ranks import tiktoken_ranks
from llama3_models.tokenizer.vocabulary import ByteLevelBPE, TokenType, Vocabulary

from llama3_runtime.text.cutting import Cutter
from llama3_runtime.text.left_out import LeftOut
from llama3_runtime.text.merge_list import MergeList
from llama3_runtime.text.normalization import nfc

# fancy-regex keeps a state for every character of white space before a lookahead. After a million of them, tiktoken
# panics.
_LONGEST_RUN: Final = 500_000


class ByteLevelEncoder:
    """An encoder of text without special tokens."""

    def __init__(self, vocabulary: Vocabulary, model: ByteLevelBPE, left_out: LeftOut) -> None:
        """Rank the tokens for tiktoken, if there are ranks; `left_out` warns about characters without a token.

        Raises:
            Llama3Error: The list of merges is damaged.
        """
        self._model = model
        self._missing_byte_id = vocabulary.missing_byte_id
        self._left_out = left_out
        self._token_ids = ids = vocabulary.ids_by_text(TokenType.NORMAL)
        single_bytes = [CHARACTER_OF_BYTE[byte] for byte in range(256)]
        self._missing_bytes = bytes(byte for byte, character in enumerate(single_bytes) if character not in ids)
        self._nfc = model.pre_tokenizer.nfc
        self._cutter = Cutter(model.pre_tokenizer)
        pattern = model.pre_tokenizer.pattern
        self._cuts_in_steps = pattern is None
        self._tiktoken: tiktoken.Encoding | None = None
        longer = tiktoken_ranks(ids, model, vocabulary.source)
        if longer is None:
            _ = self._merge_list  # built now, so the first text does not wait for it
            return
        ranked = [*single_bytes, *longer]
        self._ids = [ids.get(token, -1) for token in ranked]
        self._tiktoken = tiktoken.Encoding(
            vocabulary.source.name,
            pat_str=pattern or "(?s:.+)",  # with several expressions, it only gets pieces
            mergeable_ranks={read_bytes(token): rank for rank, token in enumerate(ranked)},
            special_tokens={},
        )

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, which must be valid Unicode."""
        if self._nfc:
            text = nfc(text)
        by_piece = self._cuts_in_steps or self._has_missing_bytes(text) or _has_long_run(text)
        if self._tiktoken is None or by_piece:
            return self._encode_by_piece(text)
        ids = self._ids
        return [ids[rank] for rank in self._tiktoken.encode_ordinary(text)]

    def _encode_by_piece(self, text: str) -> list[int]:
        """Encode as tiktoken does, but split the text in Python."""
        ids: list[int] = []
        left_out: list[str] = []
        for piece in self._cutter.pieces(text):
            data = piece.encode()
            if self._tiktoken is not None and not self._has_missing_bytes(piece):
                ids += [self._ids[rank] for rank in self._tiktoken._encode_single_piece(data)]
                continue
            merged = self._merge_list.encode(data)
            ids += merged.ids
            if merged.is_incomplete:
                left_out += filter(self._has_missing_bytes, piece)
        self._left_out.warn(left_out)
        return ids

    @cached_property
    def _merge_list(self) -> MergeList:
        return MergeList(self._token_ids, self._model, self._missing_byte_id)

    def _has_missing_bytes(self, text: str) -> bool:
        """Return whether `text` has bytes without a token; SmolLM2 lacks some control characters."""
        if not self._missing_bytes:
            return False
        data = text.encode()
        return len(data.translate(None, self._missing_bytes)) < len(data)


def _has_long_run(text: str) -> bool:
    return len(text) > _LONGEST_RUN and any(len(run) > _LONGEST_RUN for run in re.findall(r"\s+", text))
