"""The ranks by which tiktoken, which knows no merges, follows a byte-level vocabulary's list of them.

The runtime encodes by these ranks. The exporter asks for them too, so that a vocabulary that cannot be followed is
noticed when a model is exported and not when it is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from llama3_models.errors import Llama3Error
from llama3_models.tokenizer.byte_alphabet import read_bytes
from llama3_models.tokenizer.merges import complete_products, formed_products, reached_products
from llama3_models.tokenizer.vocabulary import ByteLevelBPE


def tokens_by_rank(ids: Mapping[str, int], model: ByteLevelBPE, source: Path) -> list[str]:
    """The tokens of two and more bytes, first the one that merges first.

    Args:
        ids: The id of each token of type normal, by its text.
        model: Its merges, and how text is cut before.
        source: The file that it was read from, for messages.

    Raises:
        Llama3Error: The list of merges is damaged, or no ranks have the same effect.
    """
    longer = [token for token in ids if len(token) > 1]
    if model.merges is None:
        return sorted(longer, key=ids.__getitem__)
    ignore_merges = model.pre_tokenizer.ignore_merges
    broken = next((merge for merge in model.merges if not 0 < merge.find(" ") < len(merge) - 1), None)
    if broken is not None:
        raise Llama3Error(f"{source}: the merge {broken!r:.80} is not of two tokens; download it again")
    formed = _formed(model.merges, ids, ignore_merges=ignore_merges)
    if formed is None:
        raise Llama3Error(
            f"{source}: its merges are in an order that tiktoken cannot follow (a pair comes before the merges that "
            "form its halves); give another tokenizer with --tokenizer-path"
        )
    stranger = next((token for token in formed if token not in ids or not _is_spelled(token)), None)
    if stranger is not None:
        raise Llama3Error(
            f"{source}: its merges form {stranger!r:.80}, which is no token of bytes; download or convert it again"
        )
    if not ignore_merges:
        return formed
    known = set(formed)
    unformed = [token for token in longer if token not in known and _is_spelled(token)]
    for token in unformed:
        # tiktoken takes a piece that is a token as it is, but would also merge two neighbours into it.
        if any(token[:middle] in ids and token[middle:] in ids for middle in range(1, len(token))):
            raise Llama3Error(
                f"{source}: token {ids[token]} ({token!r:.80}) is formed by no merge, but two tokens together are its "
                "text, which tiktoken would merge; give another tokenizer with --tokenizer-path"
            )
    return formed + unformed


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


def _is_spelled(token: str) -> bool:
    """Whether a token is in the alphabet of `byte_alphabet`: a byte a character."""
    return len(read_bytes(token)) == len(token)
