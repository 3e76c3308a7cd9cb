"""The split of a text into pieces, within which a byte-level tokenizer merges, by one or several expressions.

The `regex` module has no stack limit, and like fancy-regex and Oniguruma it uses Unicode's character classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import regex
from llama3_models.tokenizer.pre_tokenizers import PreTokenizer


class Cutter:
    """A splitter that works like a pre-tokenizer."""

    def __init__(self, pre_tokenizer: PreTokenizer) -> None:
        """Compile its expressions."""
        whole = pre_tokenizer.pattern
        self._steps = [regex.compile(step) for step in (pre_tokenizer.steps if whole is None else (whole,))]

    def pieces(self, text: str) -> Iterator[str]:
        """Yield the pieces of `text`, none of them empty, which together are the whole text."""
        pieces: Iterable[str] = (text,)
        for step in self._steps:
            pieces = _cut(step, pieces)
        return iter(pieces)


def _cut(step: regex.Pattern[str], pieces: Iterable[str]) -> Iterator[str]:
    """Split each piece into its matches and the text between them; an empty match only marks a border."""
    for piece in pieces:
        end = 0
        for match in step.finditer(piece):
            yield from filter(None, (piece[end : match.start()], match.group()))
            end = match.end()
        if end < len(piece):
            yield piece[end:]
