"""What a list of byte-pair merges means, and whether a tokenizer that knows only ranks can follow it.

A list of merges names pairs: *these* two neighbours become one token. tiktoken and SentencePiece know tokens only: any
two neighbours merge whose text together is a token, the token of the lowest rank first. The two agree on every text if

- the list has every pair that forms one of its tokens, each token's pairs together (`complete_products`): lists made
  from a tiktoken or SentencePiece vocabulary, Llama 3's among them with 280,147 merges for 127,744 tokens; or
- each token of the list is formed by one pair only, whatever surrounds it (`reached_products`): lists as they come from
  training, SmolLM2's among them.

The second is decided without trying texts, by this argument. While neighbours merge, what happens inside a stretch of
text whose borders have not been merged over depends on that stretch alone. So if the bytes of a token t ever come down
to two parts, they do so as they would with nothing around them, and the two parts are always the same. A pair (l, r) is
that pair if no merge across its middle would have come before l and r were whole; that is checked by taking l and r
apart again, the latest merge first, and asking at each step whether the two parts that meet in the middle form a token
of a lower rank. (The same argument is behind the backtracking encoder of github/rust-gems' `bpe`.)

Tokens are strings here, in whatever alphabet their vocabulary spells them; a merge is "left right".
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby, pairwise


def all_merges(tokens: Iterable[str], parts: Collection[str]) -> list[str]:
    """Every pair of `parts` that forms one of `tokens`, in the order of `tokens`."""
    return [
        f"{token[:middle]} {token[middle:]}"
        for token in tokens
        for middle in range(1, len(token))
        if token[:middle] in parts and token[middle:] in parts
    ]


def complete_products(merges: Sequence[str], parts: Collection[str]) -> list[str] | None:
    """The tokens that a list of merges forms, in its order, if the list is complete.

    Returns:
        The tokens; None unless the list has every pair of `parts` that forms one of them, each token's pairs together.
    """
    products = [token for token, _ in groupby(merge.replace(" ", "", 1) for merge in merges)]
    if len(products) != len(set(products)) or len(set(merges)) != len(merges):
        return None
    # Counting is enough, and is half the work of comparing: no pair is twice in the list.
    pairs = sum(
        token[:middle] in parts and token[middle:] in parts for token in products for middle in range(1, len(token))
    )
    return products if pairs == len(merges) else None


def formed_products(products: Sequence[str]) -> list[str]:
    """Those of a complete list's tokens that merging forms.

    Llama 3's list has 588 others: the merges within each of them end at two or more parts. Only a tokenizer that looks
    for whole pieces first knows them.
    """
    rank = {token: place for place, token in enumerate(products)}
    return [token for token in products if _comes_down_to_one(token, rank)]


def _comes_down_to_one(token: str, rank: dict[str, int]) -> bool:
    never = len(rank)
    parts = list(token)
    while len(parts) > 1:
        lowest, i = min((rank.get(left + right, never), i) for i, (left, right) in enumerate(pairwise(parts)))
        if lowest == never:
            return False
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return True


def reached_products(merges: Sequence[str]) -> list[str] | None:
    """The tokens that a list of merges really forms, in the order in which ranks have to be given.

    Returns:
        The tokens, without those that an earlier merge always prevents; None if a pair comes before the merges that
        form its halves, which ranks cannot express.
    """
    halves: dict[str, tuple[str, str]] = {}
    rank: dict[str, int] = {}
    waiting: list[tuple[str, str]] = []
    for position, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        if left + right in rank:
            continue
        if any(len(half) > 1 and half not in rank for half in (left, right)):
            waiting.append((left, right))
        elif _stays_apart(left, right, rank, halves):
            rank[left + right] = position
            halves[left + right] = left, right
    if any(all(len(half) == 1 or half in rank for half in pair) for pair in waiting):
        return None
    return list(rank)


def _stays_apart(left: str, right: str, rank: dict[str, int], halves: dict[str, tuple[str, str]]) -> bool:
    """Whether `left` and `right` become whole, side by side, before anything merges across their border."""
    limit = sys.maxsize
    while True:
        if rank.get(left + right, limit) < limit:
            return False
        left_rank, right_rank = rank.get(left, -1), rank.get(right, -1)
        if left_rank == right_rank == -1:
            return True
        if left_rank > right_rank:
            limit = left_rank
            left = halves[left][1]
        else:
            limit = right_rank + 1  # of two equal merges the left one goes first, and that is the one across the border
            right = halves[right][0]
