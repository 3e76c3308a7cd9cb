"""Unicode's normalization form C, in linear time."""

from __future__ import annotations

import unicodedata
from itertools import groupby
from typing import Final

import regex

# Python sorts the marks on one letter by insertion, so a megabyte of them would take half an hour. Only marks have a
# combining class, and no writing puts this many on a letter.
_LONG_RUN_OF_MARKS: Final = regex.compile(r"\p{M}{256,}")


def nfc(text: str) -> str:
    """The composed form of `text`, which is valid Unicode."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", _LONG_RUN_OF_MARKS.sub(_sorted_marks, text))


def _sorted_marks(run: regex.Match[str]) -> str:
    """The marks of a run, decomposed and in the canonical order: by class, without crossing marks of class zero."""
    marks = "".join([unicodedata.normalize("NFD", mark) for mark in run.group()])
    groups = (list(group) for _, group in groupby(marks, key=lambda mark: unicodedata.combining(mark) > 0))
    return "".join(["".join(sorted(group, key=unicodedata.combining)) for group in groups])
