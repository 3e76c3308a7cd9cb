"""SentencePiece's byte-pair encoding, through the sentencepiece library.

A GGUF has the tokens, scores and types of a SentencePiece model, but not the model: here it is put together again.
"""

from __future__ import annotations

import sentencepiece
from llama3_models.errors import Llama3Error
from llama3_models.vocabulary import SentencePieceBPE, TokenType, Vocabulary
from sentencepiece import sentencepiece_model_pb2


class SentencePieceEncoder:
    """Encodes text that holds no special tokens."""

    def __init__(self, vocabulary: Vocabulary, model: SentencePieceBPE) -> None:
        """Builds the SentencePiece model.

        Raises:
            Llama3Error: sentencepiece refuses it.
        """
        proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
        proto.trainer_spec.model_type = proto.trainer_spec.BPE
        # Spaces in front are added with the tokenizer's rules for special tokens, and no text is normalized.
        proto.normalizer_spec.name = "identity"
        proto.normalizer_spec.add_dummy_prefix = False
        proto.normalizer_spec.remove_extra_whitespaces = False
        seen: set[str] = set()
        unk_id = vocabulary.unk_id
        if unk_id is None:
            raise Llama3Error(
                f"{vocabulary.source}: has no unknown token, which SentencePiece needs; "
                "give a tokenizer with --tokenizer-path"
            )
        for token_id, (token, type_) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
            if token_id == unk_id:
                type_ = TokenType.UNKNOWN
            elif type_ in (TokenType.UNKNOWN, TokenType.USER_DEFINED) or not token or token in seen:
                # Found before, or never: not SentencePiece's business, which takes one unknown token and no doubles.
                type_ = TokenType.CONTROL
            if not token or token in seen:
                token = f"<token {token_id}>"
            seen.add(token)
            proto.pieces.add(piece=token, score=model.scores[token_id], type=int(type_))
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
