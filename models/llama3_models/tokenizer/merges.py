"""The meaning of a list of byte-pair merges, and whether a tokenizer that only knows ranks can follow it.

A list of merges names pairs: *these* two neighbors become one token. tiktoken and SentencePiece only know tokens: any
two neighbors merge if their text together is a token, and the token with the lowest rank goes first. The two agree on
every text if

- the list has every pair that forms one of its tokens, each token's pairs together (`complete_products`). This is true
  of lists made from a tiktoken or SentencePiece vocabulary, such as Llama 3's (280,147 merges for 127,744 tokens); or
- each token of the list is formed by one pair only, whatever surrounds it (`reached_products`). This is true of lists
  that come from training, such as SmolLM2's.

The second is decided without trying texts. As long as no merge has crossed the borders of a stretch of text, the merges
inside it depend on that stretch alone. So if the bytes of a token t ever come down to two parts, they do so as they
would with nothing around them, and the two parts are always the same. A pair (l, r) is that pair if no merge across its
middle comes before l and r are whole. To check this, take l and r apart again, the latest merge first, and check at
each step whether the two parts that meet in the middle form a token of a lower rank. (The backtracking encoder of
github/rust-gems' `bpe` uses the same argument.)

Tokens are strings here, in whatever alphabet their vocabulary spells them; a merge is "left right".
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence, Set
from heapq import heapify, heappop, heappush
from itertools import groupby, pairwise
from typing import Final

from llama3_models.tokenizer.splits import splits

# Models' tokens are shorter. Longer ones are not checked, because that takes quadratic time.
_LONGEST_RANKED: Final = 512


def without_duplicates(merges: Sequence[str]) -> Sequence[str]:
    """Keep only the last occurrence of each merge, as Hugging Face's tokenizers do."""
    if len(set(merges)) == len(merges):
        return merges
    return [*dict.fromkeys(reversed(merges))][::-1]


def complete_products(merges: Sequence[str], parts: Set[str] | Mapping[str, object]) -> list[str] | None:
    """Return the tokens that a list of merges forms, in its order, if the list is complete.

    Returns:
        The tokens; None unless the list has every pair of `parts` that forms one of them, each token's pairs together.
    """
    products = [token for token, _ in groupby(merge.replace(" ", "", 1) for merge in merges)]
    if len(products) != len(set(products)) or len(set(merges)) != len(merges):
        return None
    # Counting is enough, because no pair is in the list twice, and it is half the work of comparing.
    pairs = 0
    for _, middles in splits(products, parts):
        pairs += len(middles)
        if pairs > len(merges):
            return None
    return products if pairs == len(merges) else None


def formed_products(products: Sequence[str]) -> list[str]:
    """Return the tokens of a complete list that merging can form.

    Llama 3's list has 588 others: merging leaves two or more parts of each. Only a tokenizer that looks for whole
    pieces first produces them.
    """
    number = {token: place for place, token in enumerate(products)}  # a token's rank; letters follow
    for letter in sorted(set("".join(products))):
        number[letter] = len(number)
    pairs = {
        (number[token[:middle]], number[token[middle:]]): number[token]
        for token, middles in splits(products, number)
        for middle in middles
    }
    possible = set(pairs.values())
    return [
        token
        for rank, token in enumerate(products)
        if rank in possible and _comes_down_to_one([number[letter] for letter in token], pairs)
    ]


def _comes_down_to_one(parts: list[int], pairs: Mapping[tuple[int, int], int]) -> bool:
    """Return whether merging neighbors, the lowest rank first and the leftmost of equal ones, leaves one part."""
    after = [*range(1, len(parts)), -1]  # the place of each part's neighbor
    before = [*range(-1, len(parts) - 1)]
    waiting = [(pairs[pair], place) for place, pair in enumerate(pairwise(parts)) if pair in pairs]
    heapify(waiting)
    remaining = len(parts)
    while waiting:
        rank, place = heappop(waiting)
        neighbour = after[place]
        if parts[place] < 0 or neighbour < 0 or pairs.get((parts[place], parts[neighbour])) != rank:
            continue  # one of the two has since merged with another part
        parts[place], parts[neighbour] = rank, -1
        remaining -= 1
        after[place] = following = after[neighbour]
        if following >= 0:
            before[following] = place
        for left, right in ((before[place], place), (place, following)):
            if left >= 0 and right >= 0 and (formed := pairs.get((parts[left], parts[right]))) is not None:
                heappush(waiting, (formed, left))
    return remaining == 1


def reached_products(merges: Sequence[str]) -> list[str] | None:
    """Return the tokens that a list of merges really forms, in the order of their ranks.

    Returns:
        The tokens, without those that an earlier merge always prevents. None if a pair comes before the merges that
        form its halves, which ranks cannot express, or if a token has more than 512 characters.
    """
    if any(len(merge) > _LONGEST_RANKED + 1 for merge in merges):
        return None
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
    """Return whether `left` and `right` become whole, side by side, before anything merges across their border."""
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
            limit = right_rank + 1  # of two equal merges the left one goes first: the one across the border
            right = halves[right][0]
