"""Tokens that begin other tokens, and pairs of tokens that form a third, found in linear time.

Trying every place where a token could be split takes quadratic time, and a file may contain a token of 400,000
characters. In lexicographic order a token comes directly before the tokens that begin with it. So one pass with a stack
finds the longest token that each one begins with; following these from token to token finds them all. The same on
reversed tokens finds those that each one ends with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Final

# Up to this length, which no model's tokens reach, trying every place is faster than sorting.
_SHORT: Final = 256


def longest_prefixes(texts: Sequence[str]) -> list[int]:
    """Return, for each of some distinct sorted texts, the place of the longest other one it begins with, or -1."""
    return _longest_parts(texts, range(len(texts)), str.startswith)


def splits(tokens: Iterable[str], parts: Set[str] | Mapping[str, object]) -> Iterator[tuple[str, list[int]]]:
    """Yield each token, and the places where it can be split into two of `parts`, in ascending order."""
    tokens = list(tokens)
    long = _long_splits([token for token in tokens if len(token) > _SHORT], parts)
    for token in tokens:
        if len(token) > _SHORT:
            yield token, next(long)
        else:
            yield token, [i for i in range(1, len(token)) if token[:i] in parts and token[i:] in parts]


def _long_splits(tokens: Sequence[str], parts: Set[str] | Mapping[str, object]) -> Iterator[list[int]]:
    if not tokens:
        return
    texts = sorted({*tokens, *parts})
    place_of = {text: place for place, text in enumerate(texts)}
    prefixes = longest_prefixes(texts)
    backwards = [text[::-1] for text in texts]
    suffixes = _longest_parts(texts, sorted(range(len(texts)), key=backwards.__getitem__), str.endswith)
    del backwards
    for token in tokens:
        place = place_of[token]
        begins, ends = (
            {len(part) for part in map(texts.__getitem__, _chain(place, longest)) if part in parts}
            for longest in (prefixes, suffixes)
        )
        yield sorted(begins & {len(token) - end for end in ends})


def _longest_parts(texts: Sequence[str], order: Iterable[int], holds: Callable[[str, str], bool]) -> list[int]:
    """Return the place of the longest text that each contains; `order` puts each before those that contain it."""
    longest = [-1] * len(texts)
    around: list[int] = []  # each is a part of the next
    for place in order:
        text = texts[place]
        while around and not holds(text, texts[around[-1]]):
            around.pop()
        if around:
            longest[place] = around[-1]
        around.append(place)
    return longest


def _chain(place: int, longest: Sequence[int]) -> Iterator[int]:
    while (place := longest[place]) >= 0:
        yield place
