"""Byte-level byte-pair encoding through tiktoken, with the ids of the model's own file.

tiktoken cuts a text into pieces with a regular expression and merges each piece's bytes by rank, in Rust. Here are the
ranks that make it follow the file's list of merges, and the two kinds of text that it cannot take in one call.
"""

from __future__ import annotations

import re
from typing import Final

import regex
import tiktoken
from llama3_models.byte_alphabet import CHARACTER_OF_BYTE, read_bytes
from llama3_models.errors import Llama3Error
from llama3_models.merges import complete_products, reached_products
from llama3_models.vocabulary import ByteLevelBPE, TokenType, Vocabulary

# fancy-regex keeps a state for every character of a run of white space that a lookahead follows, a million at most;
# past that tiktoken panics.
_LONGEST_RUN: Final = 500_000


class ByteLevelEncoder:
    """Encodes text that holds no special tokens."""

    def __init__(self, vocabulary: Vocabulary, model: ByteLevelBPE) -> None:
        """Ranks the tokens for tiktoken.

        Raises:
            Llama3Error: The merges cannot be followed by rank.
        """
        ids: dict[str, int] = {}
        for token_id, (token, type_) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
            if type_ == TokenType.NORMAL:
                ids.setdefault(token, token_id)
        single_bytes = [CHARACTER_OF_BYTE[byte] for byte in range(256)]
        ranked = [*single_bytes, *_by_rank(ids, vocabulary, model)]
        self._ids = [ids.get(token, -1) for token in ranked]
        self._missing_bytes = bytes(byte for byte, character in enumerate(single_bytes) if character not in ids)
        self._pattern = regex.compile(model.pre_tokenizer.pattern)
        self._tiktoken = tiktoken.Encoding(
            vocabulary.source.name,
            pat_str=model.pre_tokenizer.pattern,
            mergeable_ranks={read_bytes(token): rank for rank, token in enumerate(ranked)},
            special_tokens={},
        )

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, which is valid Unicode."""
        if self._has_missing_bytes(text) or _has_long_run(text):
            ranks = self._encode_by_piece(text)
        else:
            ranks = self._tiktoken.encode_ordinary(text)
        ids = self._ids
        return [ids[rank] for rank in ranks]

    def _encode_by_piece(self, text: str) -> list[int]:
        """As tiktoken does, but cutting the text in Python, and without the bytes that no token stands for.

        The `regex` module's stack is not limited, and its classes are Unicode's, as fancy-regex's are.
        """
        ranks: list[int] = []
        for piece in self._pattern.findall(text):
            if data := piece.encode().translate(None, self._missing_bytes):
                ranks += self._tiktoken._encode_single_piece(data)  # the only way to encode bytes that are not UTF-8
        return ranks

    def _has_missing_bytes(self, text: str) -> bool:
        """Whether `text` has bytes that are no token: SmolLM2 lacks some control characters. They are left out."""
        if not self._missing_bytes:
            return False
        data = text.encode()
        return len(data.translate(None, self._missing_bytes)) < len(data)


def _has_long_run(text: str) -> bool:
    return len(text) > _LONGEST_RUN and any(len(run) > _LONGEST_RUN for run in re.findall(r"\s+", text))


def _by_rank(ids: dict[str, int], vocabulary: Vocabulary, model: ByteLevelBPE) -> list[str]:
    """The tokens of two and more bytes, in the order of their ranks."""
    longer = [token for token in ids if len(token) > 1]
    if model.merges is None:
        return sorted(longer, key=ids.__getitem__)
    whole_pieces = model.pre_tokenizer.whole_pieces
    broken = next((merge for merge in model.merges if not 0 < merge.find(" ") < len(merge) - 1), None)
    if broken is not None:
        raise Llama3Error(f"{vocabulary.source}: the merge {broken!r:.80} is not of two tokens; download it again")
    formed = complete_products(model.merges, ids) if whole_pieces else None
    if formed is None:
        formed = reached_products(model.merges)
    if formed is None:
        raise Llama3Error(
            f"{vocabulary.source}: its merges are in an order that tiktoken cannot follow (a pair comes before the "
            "merges that form its halves); give another tokenizer with --tokenizer-path"
        )
    stranger = next((token for token in formed if token not in ids or not _is_spelled(token)), None)
    if stranger is not None:
        raise Llama3Error(
            f"{vocabulary.source}: its merges form {stranger!r:.80}, which is no token of bytes; "
            "download or convert it again"
        )
    if not whole_pieces:
        return formed
    known = set(formed)
    unformed = [token for token in longer if token not in known and _is_spelled(token)]
    for token in unformed:
        # tiktoken takes a piece that is a token as it is, but would also merge two neighbours into it.
        if any(token[:middle] in ids and token[middle:] in ids for middle in range(1, len(token))):
            raise Llama3Error(
                f"{vocabulary.source}: token {ids[token]} ({token!r:.80}) is formed by no merge, but two tokens "
                "together are its text, which tiktoken would merge; give another tokenizer with --tokenizer-path"
            )
    return formed + unformed


def _is_spelled(token: str) -> bool:
    """Whether a token is in the alphabet of `byte_alphabet`: a byte a character."""
    return len(read_bytes(token)) == len(token)
