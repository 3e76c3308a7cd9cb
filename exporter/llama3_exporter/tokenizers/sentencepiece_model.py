"""A SentencePiece model that returns a vocabulary's ids, whatever the vocabulary's kind.

Of all neighbors that form a piece, SentencePiece merges those with the highest score. A byte-level vocabulary has a
list of merges instead. `byte_ranks` finds ranks that lead to the same tokens, and these become scores. Marks and
special tokens become pieces that SentencePiece calls user-defined: it looks for them first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import sentencepiece
from llama3_models.errors import Llama3Error
from llama3_models.tokenizer.byte_alphabet import CHARACTER_OF_BYTE, spell_bytes
from llama3_models.tokenizer.byte_ranks import byte_ranks
from llama3_models.tokenizer.merges import formed_products
from llama3_models.tokenizer.vocabulary import ByteLevelBPE, SentencePieceBPE, TokenType, Vocabulary
from sentencepiece import sentencepiece_model_pb2

from llama3_exporter.tokenizers.text_rewrites import MARKS

NO_TOKEN: Final = -1
"""Used instead of an id for a piece that is not a token."""

_UNKNOWN: Final = "\ufdd3"  # SentencePiece needs an unknown piece; no text contains this noncharacter


class SentencePieceModel(NamedTuple):
    """The content of a model file, and the token id of each of its pieces."""

    content: bytes
    token_ids: list[int]


class _Piece(NamedTuple):
    text: str
    token_id: int
    score: float = 0.0
    type: int = TokenType.NORMAL  # SentencePiece numbers types as GGUF does


def sentencepiece_model(vocabulary: Vocabulary, special: Mapping[str, int]) -> SentencePieceModel:
    """Build the model, for texts prepared by `text_rewrites`.

    Args:
        vocabulary: The tokens. If it is byte-level, texts must be spelled in `byte_alphabet`.
        special: The ids of all tokens that are recognized in a text, by their text.

    Raises:
        Llama3Error: No such model returns the vocabulary's ids.
    """
    if isinstance(vocabulary.model, ByteLevelBPE):
        pieces = _byte_level_pieces(vocabulary, vocabulary.model, special)
    else:
        pieces = _sentencepiece_pieces(vocabulary, vocabulary.model, special)
    by_text: dict[str, _Piece] = {}
    for piece in pieces:
        by_text.setdefault(piece.text, piece)  # of equal texts the first counts
    model: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.trainer_spec.byte_fallback = vocabulary.types.count(TokenType.BYTE) == 256
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    for piece in by_text.values():
        model.pieces.add(piece=piece.text, score=piece.score, type=int(piece.type))
    content: bytes = model.SerializeToString()
    try:
        sentencepiece.SentencePieceProcessor(model_proto=content)
    except RuntimeError as error:
        raise _refused(vocabulary, f"sentencepiece refuses its tokens ({str(error).splitlines()[0]})") from error
    return SentencePieceModel(content, [piece.token_id for piece in by_text.values()])


def _byte_level_pieces(vocabulary: Vocabulary, model: ByteLevelBPE, special: Mapping[str, int]) -> Iterator[_Piece]:
    ids = vocabulary.ids_by_text(TokenType.NORMAL)
    try:
        ranks = byte_ranks(ids, model, vocabulary.source)
    except Llama3Error as error:
        raise _refused(vocabulary, f"its merges are damaged ({error})") from error
    if ranks is None:
        raise _refused(vocabulary, "no ranks lead to the same tokens as its merges")
    yield _Piece(_UNKNOWN, NO_TOKEN, type=TokenType.UNKNOWN)
    cut, *others = (spell_bytes(mark.encode()) for mark in MARKS)
    for mark in (cut, *others):
        yield _Piece(mark, NO_TOKEN, type=TokenType.USER_DEFINED)
    for token, token_id in special.items():
        yield _Piece(spell_bytes(token.encode()), token_id, type=TokenType.USER_DEFINED)
    merging = ranks.merging
    if model.pre_tokenizer.ignore_merges:
        formed = set(merging := formed_products(ranks.merging))
        for token in (*ranks.merging, *ranks.whole):
            if token not in formed:  # but it may be a whole piece, between two cuts
                yield _Piece(f"{cut}{token}{cut}", ids[token], type=TokenType.USER_DEFINED)
    missing = NO_TOKEN if vocabulary.missing_byte_id is None else vocabulary.missing_byte_id
    for character in CHARACTER_OF_BYTE.values():
        yield _Piece(character, ids.get(character, missing))
    for rank, token in enumerate(merging):
        yield _Piece(token, ids[token], score=-rank)


def _sentencepiece_pieces(
    vocabulary: Vocabulary, model: SentencePieceBPE, special: Mapping[str, int]
) -> Iterator[_Piece]:
    if vocabulary.unk_id is None:
        raise _refused(vocabulary, "it has no unknown token, which SentencePiece needs")
    yield _Piece(_UNKNOWN, vocabulary.unk_id, type=TokenType.UNKNOWN)
    for mark in MARKS:
        yield _Piece(mark, NO_TOKEN, type=TokenType.USER_DEFINED)
    for token, token_id in special.items():
        yield _Piece(token, token_id, type=TokenType.USER_DEFINED)
    for token_id, (token, type_) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        if token and vocabulary.ids.get(token, token_id) == token_id:
            yield _Piece(token, token_id, model.scores[token_id], type_)


def _refused(vocabulary: Vocabulary, reason: str) -> Llama3Error:
    return Llama3Error(
        f"{vocabulary.source}: a tokenizer graph cannot return this vocabulary's ids: {reason}; export it without "
        "--tokenizer-graph"
    )
