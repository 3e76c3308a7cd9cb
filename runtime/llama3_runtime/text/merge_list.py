"""Byte-pair encoding that follows the list of merges itself, with Hugging Face's tokenizers.

tiktoken is faster but knows no merges. This is for the vocabularies, and the pieces of text, that it cannot handle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from llama3_models.tokenizer.byte_alphabet import spell_bytes
from llama3_models.tokenizer.vocabulary import ByteLevelBPE

# Not spelled in the alphabet of bytes, so no text contains it.
_UNKNOWN = "<unknown> "


class MergedPiece(NamedTuple):
    """The tokens of a piece of text, and whether bytes were left out because they have no token."""

    ids: list[int]
    is_incomplete: bool


class MergeList:
    """A list of merges that is applied to one piece of text at a time."""

    def __init__(self, ids: Mapping[str, int], model: ByteLevelBPE, missing_byte_id: int | None) -> None:
        """Pass the list to the library.

        Args:
            ids: The id of each token by its text, spelled in `byte_alphabet`.
            model: A list of merges whose products are tokens.
            missing_byte_id: The token for bytes without one; if None, they are left out.
        """
        from tokenizers import models  # slow to import, and few vocabularies need it

        assert model.merges is not None
        pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in model.merges)]
        # The library requires every part of a merge to be a token. A byte that merges but is not a token itself gets an
        # id past all others.
        vocab = dict(ids)
        self._first_placeholder = max(ids.values(), default=-1) + 1
        if missing_byte_id is not None:
            self._first_placeholder = max(self._first_placeholder, missing_byte_id + 1)
            vocab[_UNKNOWN] = missing_byte_id
        for left, right in pairs:
            for part in (left, right, left + right):
                if part not in vocab:
                    vocab[part] = self._first_placeholder + len(vocab)
        self._missing_byte_id = missing_byte_id
        self._bpe = models.BPE(
            vocab=vocab,
            merges=pairs,
            ignore_merges=model.pre_tokenizer.ignore_merges,
            unk_token=None if missing_byte_id is None else _UNKNOWN,
            fuse_unk=model.fuses_unknown,
        )

    def encode(self, piece: bytes) -> MergedPiece:
        """Return the tokens that the bytes of `piece` merge into."""
        ids: list[int] = []
        num_bytes = 0
        for token in self._bpe.tokenize(spell_bytes(piece)):
            if token.id < self._first_placeholder:
                ids.append(token.id)
                num_bytes += len(token.value)
            elif self._missing_byte_id is not None:
                ids.append(self._missing_byte_id)
        return MergedPiece(ids, self._missing_byte_id is None and num_bytes < len(piece))
