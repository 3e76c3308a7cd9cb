r"""How a text is prepared for SentencePiece with search and replace alone: special tokens set apart, pieces cut.

The expressions are RE2's, which has Unicode's classes but no lookaround, and whose \s is ASCII's. Where a tokenizer's
expression looks ahead, a mark is put into the text beforehand. Marks are noncharacters of Unicode, which no text means
to hold; any that a text has are removed from it first.
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
    r"""Search for `pattern` everywhere, and put `replacement` (in which \0 is what was found) in its place."""

    pattern: str
    replacement: str


def byte_level_rewrites(pre_tokenizer: PreTokenizer, special: Iterable[str]) -> Iterator[Rewrite]:
    """What leaves each piece of a text, and each special token, between two cuts.

    Args:
        pre_tokenizer: How text is cut into pieces.
        special: The texts of special tokens.
    """
    yield from _set_apart(special)
    if pre_tokenizer.pattern is not None:
        yield from _cuts(pre_tokenizer.pattern)
        return
    for step in pre_tokenizer.steps:
        yield from _cuts(step)
    # A piece between two matches shares their cuts; each piece needs its own.
    yield Rewrite(rf"\A|\z|{CUT}", CUT * 2)


def can_cut(pre_tokenizer: PreTokenizer) -> bool:
    """Whether `byte_level_rewrites` knows how to do without what its expressions look ahead for."""
    steps = pre_tokenizer.steps if pre_tokenizer.pattern is None else (pre_tokenizer.pattern,)
    return not any(re.search(r"\(\?[=!<]|\\b", _without_lookahead(step)) for step in steps)


def _cuts(expression: str) -> Iterator[Rewrite]:
    """Put what an expression matches, within the pieces that there are already, between two cuts."""
    # Of white space before other text the last character is cut off, `\s+(?!\S)`, to go with what follows it. A newline
    # stays where an earlier branch takes it, `\s*[\r\n]`; all stays before a number where that is cut off beforehand.
    if r"\s+(?!\S)" in expression:
        last = _SPACES_BUT_NEWLINES if r"\s*[" in expression else _SPACES
        number = r"\p{N}" if r"\s++(?=\p{N})" in expression else ""
        yield Rewrite(f"([{_SPACES}])([{last}][^{_SPACES}{_MARKS}{number}])", rf"\1{CUT}\2")
    yield Rewrite(f"{OPEN}[^{CLOSE}]*{CLOSE}|{_without_lookahead(expression)}", rf"{CUT}\0{CUT}")


def sentencepiece_rewrites(special: Iterable[str], *, add_space_prefix: bool) -> Iterator[Rewrite]:
    """What sets special tokens apart, and puts a space before text that begins or follows one, if it is to be so."""
    yield from _set_apart(special)
    if add_space_prefix:
        yield Rewrite(r"\A", CLOSE)
        yield Rewrite(rf"({CLOSE})([^{_MARKS}])", r"\1 \2")


def first(token: str) -> Rewrite:
    """What puts a special token before a text that does not begin with it."""
    return Rewrite(rf"\A(?:{re.escape(token)})?", token.replace("\\", "\\\\"))


def without_letters(letters: Collection[str]) -> Iterator[Rewrite]:
    """What leaves letters out of a text that is spelled in `byte_alphabet`, but not out of marks and special tokens."""
    if letters:
        cut, begin, end = (spell_bytes(mark.encode()) for mark in MARKS)
        yield Rewrite(f"({begin}.*?{end}|{cut})|[{re.escape(''.join(sorted(letters)))}]", r"\1")


def valid_utf8() -> Iterator[Rewrite]:
    r"""What puts U+FFFD in the place of bytes that are no UTF-8.

    RE2 finds only valid characters, so these are marked, in runs, and what lies between the runs is replaced. A letter
    in front makes sure that there is a first run.
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
    r"""An expression of `pre_tokenizers` for RE2, right for texts in which the last white space is cut off.

    A piece ends at a cut or with the text.
    """
    pattern = pattern.replace(r"\s++(?=\p{N})|", "").replace(r"\s+(?!\S)|", "")
    if pattern.endswith("$"):
        pattern = pattern.removesuffix("$") + rf"(?:{CUT}|\z)"
    # Classes that exclude characters exclude the marks. A \s within a class lists its characters, else it is a class.
    pattern = pattern.replace("[^", f"[^{_MARKS}")
    return re.sub(
        r"(\[[^]]*\])|\\s",
        lambda found: found[1].replace(r"\s", _SPACES) if found[1] else f"[{_SPACES}]",
        pattern,
    )
