"""Unicode's normalization form C, in linear time."""

from __future__ import annotations

import unicodedata
from itertools import groupby
from typing import Final

import regex

# Python sorts the marks on a letter by insertion, so a megabyte of them would take half an hour. Only marks have a
# combining class, and no script puts this many on a letter.
_LONG_RUN_OF_MARKS: Final = regex.compile(r"\p{M}{256,}")


def nfc(text: str) -> str:
    """Return the composed form of `text`, which must be valid Unicode."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", _LONG_RUN_OF_MARKS.sub(_sorted_marks, text))


def _sorted_marks(run: regex.Match[str]) -> str:
    """Decompose the marks of a run and put them in canonical order: by class, never past a mark of class zero."""
    marks = "".join([unicodedata.normalize("NFD", mark) for mark in run.group()])
    groups = (list(group) for _, group in groupby(marks, key=lambda mark: unicodedata.combining(mark) > 0))
    return "".join(["".join(sorted(group, key=unicodedata.combining)) for group in groups])
