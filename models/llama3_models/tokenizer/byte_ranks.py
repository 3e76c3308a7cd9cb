"""The ranks by which tiktoken, which knows no merges, follows a byte-level vocabulary's list of them.

The runtime encodes by these ranks, and the exporter makes them the scores of a SentencePiece model. Some lists have no
such ranks.
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
    """The tokens of two and more bytes that a text can become.

    Attributes:
        merging: Those that neighbours merge into, first the one that merges first.
        whole: Those that only a whole piece of text becomes, where the model takes pieces that are tokens as they are.
    """

    merging: list[str]
    whole: list[str]


def byte_ranks(ids: Mapping[str, int], model: ByteLevelBPE, source: Path) -> ByteRanks | None:
    """The ranks of a vocabulary's tokens; None if its list of merges has none.

    Args:
        ids: The id of each token of type normal, by its text.
        model: Its merges, and how text is cut before.
        source: The file that it was read from, for messages.

    Raises:
        Llama3Error: The list of merges is damaged.
    """
    longer = [token for token in ids if len(token) > 1]
    if model.merges is None:
        return ByteRanks(sorted(longer, key=ids.__getitem__), [])
    ignore_merges = model.pre_tokenizer.ignore_merges
    broken = next((merge for merge in model.merges if not 0 < merge.find(" ") < len(merge) - 1), None)
    if broken is not None:
        raise Llama3Error(f"{source}: the merge {broken!r:.80} is not of two tokens; download it again")
    merges = without_duplicates(model.merges)
    formed = _formed(merges, ids, ignore_merges=ignore_merges)
    products = formed if formed is not None else _possible_products(merges, ids)
    stranger = next((token for token in products if token not in ids or not _is_spelled(token)), None)
    if stranger is not None:
        raise Llama3Error(
            f"{source}: its merges form {stranger!r:.80}, which is no token of bytes; download or convert it again"
        )
    if formed is None:
        return None
    known = set(formed)
    whole = [token for token in longer if token not in known and _is_spelled(token)] if ignore_merges else []
    return ByteRanks(formed, whole)


def tiktoken_ranks(ids: Mapping[str, int], model: ByteLevelBPE, source: Path) -> list[str] | None:
    """The tokens of two and more bytes in the order of their ranks; None if tiktoken would give other ids.

    tiktoken takes a piece that is a token as it is, but merges two neighbours into any token that they are the text of,
    so it has no way to keep a token for whole pieces that two others make up.

    Raises:
        Llama3Error: As `byte_ranks`.
    """
    ranks = byte_ranks(ids, model, source)
    if ranks is None or any(middles for _, middles in splits(ranks.whole, ids)):
        return None
    return ranks.merging + ranks.whole


def _formed(merges: Sequence[str], ids: Mapping[str, int], *, ignore_merges: bool) -> list[str] | None:
    """The tokens that merging forms, and with `ignore_merges` all of a complete list's, since they are taken whole."""
    if ignore_merges:
        complete = complete_products(merges, ids)
        return reached_products(merges) if complete is None else complete
    reached = reached_products(merges)
    if reached is not None:
        return reached
    complete = complete_products(merges, ids)
    return None if complete is None else formed_products(complete)


def _possible_products(merges: Sequence[str], ids: Mapping[str, int]) -> list[str]:
    """What merges form whose halves are single bytes or tokens; others never happen."""
    pairs = (merge.split(" ", 1) for merge in merges)
    return [left + right for left, right in pairs if all(len(half) == 1 or half in ids for half in (left, right))]


def _is_spelled(token: str) -> bool:
    """Whether a token is in the alphabet of `byte_alphabet`: a byte a character."""
    return len(read_bytes(token)) == len(token)
