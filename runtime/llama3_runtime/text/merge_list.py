"""Byte-pair encoding by a list of merges itself, through Hugging Face's tokenizers.

tiktoken is faster and has no list of merges; this is for the vocabularies, and the pieces of text, that it cannot hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from llama3_models.tokenizer.byte_alphabet import spell_bytes
from llama3_models.tokenizer.vocabulary import ByteLevelBPE

# Names of what is not spelled in the alphabet of bytes, so that no text has them.
_UNKNOWN = "<unknown> "


class MergedPiece(NamedTuple):
    """The tokens of a piece of text, and whether bytes of it were left out, since no token has them."""

    ids: list[int]
    is_incomplete: bool


class MergeList:
    """Merges the bytes of one piece of text."""

    def __init__(self, ids: Mapping[str, int], model: ByteLevelBPE, missing_byte_id: int | None) -> None:
        """Hands the list to the library.

        Args:
            ids: The id of each token by its text, spelled in `byte_alphabet`.
            model: A list of merges whose products are tokens.
            missing_byte_id: The token for bytes that no token has; without one, they are left out.
        """
        from tokenizers import models  # few vocabularies need it, and it is slow to import

        assert model.merges is not None
        pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in model.merges)]
        # The library wants every part of a merge to be a token. A byte that merges, and is none itself, is given an id
        # past all others.
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
        """The tokens that the bytes of `piece` merge into."""
        ids: list[int] = []
        num_bytes = 0
        for token in self._bpe.tokenize(spell_bytes(piece)):
            if token.id < self._first_placeholder:
                ids.append(token.id)
                num_bytes += len(token.value)
            elif self._missing_byte_id is not None:
                ids.append(self._missing_byte_id)
        return MergedPiece(ids, self._missing_byte_id is None and num_bytes < len(piece))
