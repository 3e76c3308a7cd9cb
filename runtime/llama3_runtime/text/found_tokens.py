"""Tokens recognized in a text: of those that begin first, the longest.

A regular expression of all tokens would be simpler. But for a million tokens it needs 15 seconds and a gigabyte to
compile, and wherever one could begin it tries all that begin alike, one by one. Here the tokens are sorted, and a
binary search finds those that can begin at a place.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Final

from llama3_models.tokenizer.splits import longest_prefixes

LONGEST: Final = 4096
"""The most characters of a recognized token: so many are examined wherever one could begin."""


class FoundTokens:
    """A search for tokens in texts.

    Attributes:
        ids: The id of each token by its text.
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        """Sort the tokens of `ids`, none of them empty or longer than `LONGEST`."""
        self.ids = ids
        self._tokens = sorted(ids)
        self._shorter = longest_prefixes(self._tokens)
        self._longest = max(map(len, ids), default=0)
        self._first = re.compile(f"[{re.escape(''.join(sorted({token[0] for token in ids})))}]") if ids else None

    def find(self, text: str) -> Iterator[tuple[int, str]]:
        """Yield where each token in a text begins, and the token; they do not overlap."""
        position = 0
        while self._first is not None and (candidate := self._first.search(text, position)):
            position = candidate.start()
            token = self._at(text, position)
            if token is None:
                position += 1
            else:
                yield position, token
                position += len(token)

    def _at(self, text: str, position: int) -> str | None:
        """Return the longest token at a place, or None.

        In sorted order it comes before the text at that place, and every token between the two begins with it.
        """
        place = bisect_right(self._tokens, text[position : position + self._longest]) - 1
        while place >= 0:
            token = self._tokens[place]
            if text.startswith(token, position):
                return token
            place = self._shorter[place]
        return None
