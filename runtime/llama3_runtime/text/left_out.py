"""Warnings about characters without a token, so a prompt never loses them silently."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

_MOST_NAMED: Final = 10


class LeftOut:
    """Warnings that name each character once, however many texts have it."""

    def __init__(self, source: Path, *, quiet: bool = False) -> None:
        """Name `source` as the file of the vocabulary; if `quiet`, log nothing."""
        self._source = source
        self._quiet = quiet
        self._known: set[str] = set()

    def warn(self, characters: Iterable[str]) -> None:
        """Warn about `characters` that were left out of a text, unless a warning has already named them."""
        new = [character for character in dict.fromkeys(characters) if character not in self._known]
        if self._quiet or not new:
            return
        self._known.update(new)
        named = ", ".join(map(_named, new[:_MOST_NAMED]))
        rest = len(new) - _MOST_NAMED
        more = f" and {rest:,} other{'s' * (rest > 1)}" if rest > 0 else ""
        logger.warning("%s: characters without a token are left out of the text: %s%s", self._source, named, more)


def _named(character: str) -> str:
    """Return a name such as U+65E5, and the character if it is printable."""
    return f"U+{ord(character):04X}" + (f" {character}" if character.isprintable() and character != " " else "")
