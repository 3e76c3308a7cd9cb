"""Text cut into the pieces within which a byte-level tokenizer merges, by one expression or by several in a row.

The `regex` module's stack is not limited, and its classes are Unicode's, as those of fancy-regex and Oniguruma are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import regex
from llama3_models.tokenizer.pre_tokenizers import PreTokenizer


class Cutter:
    """Cuts as a pre-tokenizer does."""

    def __init__(self, pre_tokenizer: PreTokenizer) -> None:
        """Compile its expressions."""
        whole = pre_tokenizer.pattern
        self._steps = [regex.compile(step) for step in (pre_tokenizer.steps if whole is None else (whole,))]

    def pieces(self, text: str) -> Iterator[str]:
        """The pieces of `text`, which together are all of it; none is empty."""
        pieces: Iterable[str] = (text,)
        for step in self._steps:
            pieces = _cut(step, pieces)
        return iter(pieces)


def _cut(step: regex.Pattern[str], pieces: Iterable[str]) -> Iterator[str]:
    """Every match within a piece is a piece, and so is what lies between; an empty match just cuts there."""
    for piece in pieces:
        end = 0
        for match in step.finditer(piece):
            yield from filter(None, (piece[end : match.start()], match.group()))
            end = match.end()
        if end < len(piece):
            yield piece[end:]
