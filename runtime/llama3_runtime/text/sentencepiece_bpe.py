"""SentencePiece's byte-pair encoding, with the sentencepiece library.

A GGUF contains the tokens, scores and types of a SentencePiece model, but not the model itself. It is rebuilt here.
"""

from __future__ import annotations

from itertools import groupby
from typing import Final

import sentencepiece
from llama3_models.errors import Llama3Error
from llama3_models.tokenizer.vocabulary import SentencePieceBPE, TokenType, Vocabulary
from sentencepiece import sentencepiece_model_pb2

from llama3_runtime.text.left_out import LeftOut

_SPACE: Final = "\u2581"  # how SentencePiece spells it


class SentencePieceEncoder:
    """An encoder of text without special tokens."""

    def __init__(self, vocabulary: Vocabulary, model: SentencePieceBPE, left_out: LeftOut) -> None:
        """Build the SentencePiece model; `left_out` warns about characters without a token.

        Raises:
            Llama3Error: sentencepiece refuses the model.
        """
        self._unk_id = vocabulary.unk_id
        self._left_out = left_out
        self._byte_ids = {
            data[0]: token_id
            for token_id, (data, type_) in enumerate(zip(vocabulary.token_bytes(), vocabulary.types, strict=True))
            if type_ == TokenType.BYTE and len(data) == 1
        }
        has_all_bytes = len(self._byte_ids) == 256 and vocabulary.types.count(TokenType.BYTE) == 256
        proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
        proto.trainer_spec.model_type = proto.trainer_spec.BPE
        proto.trainer_spec.byte_fallback = has_all_bytes
        # The tokenizer adds spaces before text, by its rules for special tokens. Text is not normalized.
        proto.normalizer_spec.name = "identity"
        proto.normalizer_spec.add_dummy_prefix = False
        proto.normalizer_spec.remove_extra_whitespaces = False
        seen = {""}
        for token_id, (token, type_) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
            is_first = token not in seen and vocabulary.ids.get(token, token_id) == token_id
            piece = token if is_first else f"<token {token_id}>"
            seen.add(token)
            if token_id == vocabulary.unk_id:
                type_ = TokenType.UNKNOWN
            elif (
                piece != token
                or type_ in (TokenType.UNKNOWN, TokenType.USER_DEFINED)
                or (type_ == TokenType.BYTE and not has_all_bytes)
            ):
                # User-defined tokens are recognized earlier. SentencePiece accepts one unknown token, no duplicates,
                # and byte tokens only if all 256 are there.
                type_ = TokenType.CONTROL
            proto.pieces.add(piece=piece, score=model.scores[token_id], type=int(type_))
        self._sentencepiece_unk_id = vocabulary.unk_id
        if vocabulary.unk_id is None:  # SentencePiece needs one
            self._sentencepiece_unk_id = len(proto.pieces)
            proto.pieces.add(piece=f"<token {len(proto.pieces)}>", type=int(TokenType.UNKNOWN))
        self._handles_unknown = has_all_bytes or (not self._byte_ids and vocabulary.unk_id is not None)
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            longest = max(range(len(vocabulary.tokens)), key=lambda token_id: len(vocabulary.tokens[token_id]))
            raise Llama3Error(
                f"{vocabulary.source}: sentencepiece refuses its tokens ({reason}; the longest is token {longest}, "
                f"with {len(vocabulary.tokens[longest]):,} characters); pass a tokenizer as --tokenizer-path"
            ) from None

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, which must be valid Unicode."""
        if self._handles_unknown:
            ids: list[int] = self._processor.encode(text)
            return ids
        return self._encode_with_some_bytes(text)

    def _encode_with_some_bytes(self, text: str) -> list[int]:
        """Encode like Hugging Face's tokenizers: a character without a token becomes its bytes if all are tokens.

        A run of other such characters becomes one unknown token. If there is no such token, they are left out before
        merging.
        """
        if self._unk_id is None:
            text = self._without_unknown(text)
        ids: list[int] = []
        pieces = self._processor.encode(text, out_type=str)  # an unknown piece is the text itself
        for token_id, piece in zip(self._processor.encode(text), pieces, strict=True):
            if token_id != self._sentencepiece_unk_id:
                ids.append(token_id)
                continue
            for known, characters in groupby(piece, self._has_bytes):
                if known:
                    ids += [self._byte_ids[byte] for byte in "".join(characters).encode()]
                elif self._unk_id is not None:
                    ids.append(self._unk_id)
        return ids

    def _without_unknown(self, text: str) -> str:
        characters = text.replace(" ", _SPACE)
        left_out = {character for character in characters if not self._is_token(character)}
        self._left_out.warn(character for character in text if character.replace(" ", _SPACE) in left_out)
        return "".join([character for character in characters if character not in left_out])

    def _is_token(self, character: str) -> bool:
        return self._processor.piece_to_id(character) != self._sentencepiece_unk_id or self._has_bytes(character)

    def _has_bytes(self, character: str) -> bool:
        return all(byte in self._byte_ids for byte in character.encode())
