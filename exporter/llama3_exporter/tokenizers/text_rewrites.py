r"""Preparation of a text for SentencePiece by search and replace alone: isolate special tokens, mark pieces.

The expressions are for RE2, which has Unicode's classes but no lookaround, and whose \s only matches ASCII. If a
tokenizer's expression looks ahead, a mark is put into the text beforehand. Marks are Unicode noncharacters, which texts
should not contain; they are removed from a text first.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from llama3_models.tokenizer.byte_alphabet import spell_bytes
from llama3_models.tokenizer.pre_tokenizers import PreTokenizer

CUT: Final = "\ufdd0"
"""The mark between two pieces."""

OPEN: Final = "\ufdd1"
CLOSE: Final = "\ufdd2"
"""The marks around a special token."""

MARKS: Final = (CUT, OPEN, CLOSE)

_MARKS: Final = r"\x{FDD0}-\x{FDD2}"
_SPACES: Final = r"\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"
_SPACES_BUT_NEWLINES: Final = _SPACES.replace(r"\t-\r", r"\t\v\f")


@dataclass(frozen=True)
class Rewrite:
    r"""A replacement of every match of `pattern` by `replacement`, in which \0 is the match."""

    pattern: str
    replacement: str


def byte_level_rewrites(pre_tokenizer: PreTokenizer, special: Iterable[str]) -> Iterator[Rewrite]:
    """Yield the rewrites that put each piece of a text, and each special token, between two cuts.

    Args:
        pre_tokenizer: How text is split into pieces.
        special: The texts of special tokens.
    """
    yield from _set_apart(special)
    if pre_tokenizer.pattern is not None:
        yield from _cuts(pre_tokenizer.pattern)
        return
    for step in pre_tokenizer.steps:
        yield from _cuts(step)
    # A piece between two matches shares their cuts, but each piece needs its own.
    yield Rewrite(rf"\A|\z|{CUT}", CUT * 2)


def can_cut(pre_tokenizer: PreTokenizer) -> bool:
    """Return whether `byte_level_rewrites` can replace the lookaheads in the expressions of a pre-tokenizer."""
    steps = pre_tokenizer.steps if pre_tokenizer.pattern is None else (pre_tokenizer.pattern,)
    return not any(re.search(r"\(\?[=!<]|\\b", _without_lookahead(step)) for step in steps)


def _cuts(expression: str) -> Iterator[Rewrite]:
    """Yield the rewrites that put each match of an expression, within the existing pieces, between two cuts."""
    # `\s+(?!\S)` leaves the last character of white space to the text after it, so it is cut off here. But a newline
    # stays if an earlier branch matches it (`\s*[\r\n]`), and all white space stays before a number if numbers are
    # isolated first.
    if r"\s+(?!\S)" in expression:
        last = _SPACES_BUT_NEWLINES if r"\s*[" in expression else _SPACES
        number = r"\p{N}" if r"\s++(?=\p{N})" in expression else ""
        yield Rewrite(f"([{_SPACES}])([{last}][^{_SPACES}{_MARKS}{number}])", rf"\1{CUT}\2")
    yield Rewrite(f"{OPEN}[^{CLOSE}]*{CLOSE}|{_without_lookahead(expression)}", rf"{CUT}\0{CUT}")


def sentencepiece_rewrites(special: Iterable[str], *, add_space_prefix: bool) -> Iterator[Rewrite]:
    """Yield the rewrites that isolate special tokens and, if asked, put a space before each text between them."""
    yield from _set_apart(special)
    if add_space_prefix:
        yield Rewrite(r"\A", CLOSE)
        yield Rewrite(rf"({CLOSE})([^{_MARKS}])", r"\1 \2")


def first(token: str) -> Rewrite:
    """Return the rewrite that puts a special token before a text that does not begin with it."""
    return Rewrite(rf"\A(?:{re.escape(token)})?", token.replace("\\", "\\\\"))


def without_letters(letters: Collection[str]) -> Iterator[Rewrite]:
    """Yield the rewrite that removes letters from a text in `byte_alphabet`, but not from marks or special tokens."""
    if letters:
        cut, begin, end = (spell_bytes(mark.encode()) for mark in MARKS)
        yield Rewrite(f"({begin}.*?{end}|{cut})|[{re.escape(''.join(sorted(letters)))}]", r"\1")


def valid_utf8() -> Iterator[Rewrite]:
    r"""Yield the rewrites that replace bytes that are not UTF-8 with U+FFFD.

    RE2 matches only valid characters. So runs of these are marked, and the bytes between the runs are replaced. A
    letter put first ensures that there is a first run.
    """
    yield Rewrite(f"[{_MARKS}]", "")
    yield Rewrite(r"\A", "x")
    yield Rewrite("(?s:.)+", rf"{OPEN}\0{CLOSE}")
    yield Rewrite(rf"\A{OPEN}x|{CLOSE}\z", "")
    yield Rewrite(rf"{CLOSE}\C*?(?:{OPEN}|\z)", "\ufffd")


def _set_apart(special: Iterable[str]) -> Iterator[Rewrite]:
    yield Rewrite(f"[{_MARKS}]", "")
    if longest_first := sorted(special, key=len, reverse=True):
        yield Rewrite("|".join(map(re.escape, longest_first)), rf"{OPEN}\0{CLOSE}")


def _without_lookahead(pattern: str) -> str:
    r"""Adapt an expression of `pre_tokenizers` to RE2, for texts in which the last white space is already cut off.

    A piece ends at a cut or at the end of the text.
    """
    pattern = pattern.replace(r"\s++(?=\p{N})|", "").replace(r"\s+(?!\S)|", "")
    if pattern.endswith("$"):
        pattern = pattern.removesuffix("$") + rf"(?:{CUT}|\z)"
    # Negated classes also exclude the marks. A \s becomes a list of characters within a class, otherwise a class.
    pattern = pattern.replace("[^", f"[^{_MARKS}")
    return re.sub(
        r"(\[[^]]*\])|\\s",
        lambda found: found[1].replace(r"\s", _SPACES) if found[1] else f"[{_SPACES}]",
        pattern,
    )
