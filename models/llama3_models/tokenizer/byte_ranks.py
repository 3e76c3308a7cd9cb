"""Ranks that make tiktoken, which does not know merges, follow a byte-level vocabulary's list of merges.

The runtime encodes with these ranks, and the exporter uses them as the scores of a SentencePiece model. Some lists have
no such ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from llama3_models.errors import Llama3Error
from llama3_models.tokenizer.byte_alphabet import read_bytes
from llama3_models.tokenizer.merges import (
    complete_products,
    formed_products,
    reached_products,
    without_duplicates,
)
from llama3_models.tokenizer.splits import splits
from llama3_models.tokenizer.vocabulary import ByteLevelBPE


class ByteRanks(NamedTuple):
    """The tokens of two or more bytes that can occur.

    Attributes:
        merging: The tokens that result from merging, in the order in which they merge.
        whole: The tokens that only occur as whole pieces, if the model keeps pieces that are tokens whole.
    """

    merging: list[str]
    whole: list[str]


def byte_ranks(ids: Mapping[str, int], model: ByteLevelBPE, source: Path) -> ByteRanks | None:
    """Compute the ranks of a vocabulary's tokens, or None if its list of merges has none.

    Args:
        ids: The id of each normal token, by its text.
        model: The merges, and how text is split before them.
        source: The vocabulary's file, for messages.

    Raises:
        Llama3Error: The list of merges is damaged.
    """
    longer = [token for token in ids if len(token) > 1]
    if model.merges is None:
        return ByteRanks(sorted(longer, key=ids.__getitem__), [])
    ignore_merges = model.pre_tokenizer.ignore_merges
    broken = next((merge for merge in model.merges if not 0 < merge.find(" ") < len(merge) - 1), None)
    if broken is not None:
        raise Llama3Error(f"{source}: the merge {broken!r:.80} is not a pair of tokens; download the file again")
    merges = without_duplicates(model.merges)
    formed = _formed(merges, ids, ignore_merges=ignore_merges)
    products = formed if formed is not None else _possible_products(merges, ids)
    stranger = next((token for token in products if token not in ids or not _is_spelled(token)), None)
    if stranger is not None:
        raise Llama3Error(
            f"{source}: its merges form {stranger!r:.80}, which is not a byte-level token; download or convert "
            "the model again"
        )
    if formed is None:
        return None
    known = set(formed)
    whole = [token for token in longer if token not in known and _is_spelled(token)] if ignore_merges else []
    return ByteRanks(formed, whole)


def tiktoken_ranks(ids: Mapping[str, int], model: ByteLevelBPE, source: Path) -> list[str] | None:
    """Return the tokens of two or more bytes in the order of their ranks, or None if tiktoken's ids would differ.

    tiktoken keeps a piece that is a token whole, but it merges two neighbors into any token that has their text. So it
    cannot reserve a token for whole pieces if two other tokens together have its text.

    Raises:
        Llama3Error: The list of merges is damaged.
    """
    ranks = byte_ranks(ids, model, source)
    if ranks is None or any(middles for _, middles in splits(ranks.whole, ids)):
        return None
    return ranks.merging + ranks.whole


def _formed(merges: Sequence[str], ids: Mapping[str, int], *, ignore_merges: bool) -> list[str] | None:
    """Return the tokens that merging forms; with `ignore_merges`, all of a complete list's, because they stay whole."""
    if ignore_merges:
        complete = complete_products(merges, ids)
        return reached_products(merges) if complete is None else complete
    reached = reached_products(merges)
    if reached is not None:
        return reached
    complete = complete_products(merges, ids)
    return None if complete is None else formed_products(complete)


def _possible_products(merges: Sequence[str], ids: Mapping[str, int]) -> list[str]:
    """Return the products of merges whose halves are single bytes or tokens; other merges never happen."""
    pairs = (merge.split(" ", 1) for merge in merges)
    return [left + right for left, right in pairs if all(len(half) == 1 or half in ids for half in (left, right))]


def _is_spelled(token: str) -> bool:
    """Return whether a token is spelled in `byte_alphabet`, one character per byte."""
    return len(read_bytes(token)) == len(token)
