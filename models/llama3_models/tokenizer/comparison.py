"""Comparison of two vocabularies: the ids of every text, where generation ends, and the chat template.

A tokenizer is a function of its vocabulary, so two vocabularies without differences have the same ids for every text.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from llama3_models.tokenizer.vocabulary import ByteLevelBPE, SentencePieceBPE, TokenType, Vocabulary

# Both are recognized wherever special tokens are, and decode to nothing.
_SAME = {int(TokenType.UNKNOWN): int(TokenType.CONTROL)}


def differences(expected: Vocabulary, found: Vocabulary) -> Iterator[str]:
    """Yield a phrase for each difference of `found` from `expected`.

    Unused tokens and tokens without text are skipped, because no text leads to them.
    """
    yield from _tokens(expected, found)
    if isinstance(expected.model, ByteLevelBPE) and isinstance(found.model, ByteLevelBPE):
        yield from _byte_level(expected.model, found.model)
    elif isinstance(expected.model, SentencePieceBPE) and isinstance(found.model, SentencePieceBPE):
        yield from _sentencepiece(expected, expected.model, found, found.model)
    else:
        yield "its kind"
    for name, ours, theirs in (
        ("its beginning-of-sequence token", expected.bos_id, found.bos_id),
        ("whether a prompt begins with a beginning-of-sequence token", expected.adds_bos, found.adds_bos),
        ("its token for unknown bytes", expected.missing_byte_id, found.missing_byte_id),
        ("whether a run of unknown bytes becomes one token", _fuses_unknown(expected), _fuses_unknown(found)),
        ("its end-of-generation tokens", expected.eog_ids, found.eog_ids),
        ("what tokens do with the text around them", expected.surroundings, found.surroundings),
        ("its chat template", expected.chat_template, found.chat_template),
    ):
        if ours != theirs:
            yield name


def _tokens(expected: Vocabulary, found: Vocabulary) -> Iterator[str]:
    """Name the first token that differs, and say how many more there are."""
    if list(expected.tokens) == list(found.tokens) and list(expected.types) == list(found.types):
        return  # almost always so, and ten times faster to check
    ours, theirs = (list(_used(vocabulary)) for vocabulary in (expected, found))
    if ours != theirs:
        wrong = sorted({token_id for token_id, *_ in set(ours) ^ set(theirs)})
        more = f" and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
        yield f"token {wrong[0]} ({(expected.tokens[wrong[0] :] or [''])[0]!r:.40}){more}"


def _used(vocabulary: Vocabulary) -> Iterator[tuple[int, str, int]]:
    for token_id, (token, type_) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        if token and type_ != TokenType.UNUSED:
            yield token_id, token, _SAME.get(type_, type_)


def _fuses_unknown(vocabulary: Vocabulary) -> bool:
    return (
        isinstance(vocabulary.model, ByteLevelBPE)
        and vocabulary.model.fuses_unknown
        and vocabulary.missing_byte_id is not None
    )


def _byte_level(expected: ByteLevelBPE, found: ByteLevelBPE) -> Iterator[str]:
    if (expected.merges is None) != (found.merges is None) or list(expected.merges or ()) != list(found.merges or ()):
        yield "its merges"
    ours, theirs = (
        (model.pre_tokenizer.hugging_face, model.pre_tokenizer.ignore_merges, model.pre_tokenizer.nfc)
        for model in (expected, found)
    )
    if ours != theirs:
        yield "how it splits text into pieces"


def _sentencepiece(
    expected: Vocabulary, our_model: SentencePieceBPE, found: Vocabulary, their_model: SentencePieceBPE
) -> Iterator[str]:
    if our_model.add_space_prefix != their_model.add_space_prefix:
        yield "whether a space is put before text"
    if expected.unk_id != found.unk_id:
        yield "its unknown token"
    ids = [token_id for token_id, token, type_ in _used(found) if type_ == TokenType.NORMAL and len(token) > 1]
    if max(ids, default=0) < len(expected.tokens):
        ids.sort(key=lambda token_id: -their_model.scores[token_id])
        if any(our_model.scores[first] <= our_model.scores[second] for first, second in pairwise(ids)):
            yield "the order of its scores"
