"""SentencePiece's byte-pair encoding, through the sentencepiece library.

A GGUF has the tokens, scores and types of a SentencePiece model, but not the model: here it is put together again.
"""

from __future__ import annotations

import sentencepiece
from llama3_models.errors import Llama3Error
from llama3_models.tokenizer.vocabulary import SentencePieceBPE, TokenType, Vocabulary
from sentencepiece import sentencepiece_model_pb2


class SentencePieceEncoder:
    """Encodes text that holds no special tokens."""

    def __init__(self, vocabulary: Vocabulary, model: SentencePieceBPE) -> None:
        """Builds the SentencePiece model.

        Raises:
            Llama3Error: sentencepiece refuses it.
        """
        if vocabulary.unk_id is None:
            raise Llama3Error(
                f"{vocabulary.source}: has no unknown token, which SentencePiece needs; "
                "give a tokenizer with --tokenizer-path"
            )
        proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
        proto.trainer_spec.model_type = proto.trainer_spec.BPE
        # Spaces in front are added with the tokenizer's rules for special tokens, and no text is normalized.
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
            elif piece != token or type_ in (TokenType.UNKNOWN, TokenType.USER_DEFINED):
                # User-defined tokens are found beforehand; SentencePiece takes one unknown token and none twice.
                type_ = TokenType.CONTROL
            proto.pieces.add(piece=piece, score=model.scores[token_id], type=int(type_))
        proto.trainer_spec.byte_fallback = vocabulary.types.count(TokenType.BYTE) == 256
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise Llama3Error(
                f"{vocabulary.source}: sentencepiece refuses its tokens ({reason}); "
                "give a tokenizer with --tokenizer-path"
            ) from None

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, which is valid Unicode."""
        ids: list[int] = self._processor.encode(text)
        return ids
