"""Safe output on a terminal: control codes in text from files and models are escaped.

File names, metadata, token texts and messages of libraries may contain anything, including codes that move the cursor,
set the title or the clipboard, or reverse the reading direction. Commands print lines with `show` and `notice`, and the
text of a model with `TextWriter`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import textwrap
from typing import Final, TextIO

WIDTH: Final = 79
"""Maximum columns of a line: a terminal with 80 columns may break a line of 80."""

# Control codes (C0 except tab and line feed, DEL, C1), and two direction overrides that no script needs.
_ACTED_ON: Final = re.compile("\r\n|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202d\u202e]")

_quiet = False


def visible(text: str) -> str:
    r"""Return a text as one line of visible characters; others become escapes such as \x1b."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shell_word(text: str) -> str:
    """Return a text as one word of a shell command that can be copied from a terminal, such as a path in advice."""
    if text.isprintable():
        return shlex.quote(text)
    # $'...' means the same in bash, zsh and POSIX (since 2024).
    return "$'" + "".join(c if c.isprintable() and c not in "\\'" else _octal(c) for c in text) + "'"


def show(*lines: str, file: TextIO | None = None) -> None:
    """Print lines, by default on standard output. A newline within a line is escaped."""
    if lines:
        print(*map(visible, lines), sep="\n", file=file, flush=True)


def show_json(data: object, *, indent: int | None = None) -> None:
    """Print data as JSON in printable ASCII, which any output encoding can represent."""
    print(json.dumps(data, indent=indent).replace("\x7f", "\\u007f"), flush=True)


def notice(line: str) -> None:
    """Print a line about progress on standard error, unless --quiet is on."""
    if not _quiet:
        show(line, file=sys.stderr)


def set_quiet(quiet: bool) -> None:
    """Turn notices and progress off, or on again."""
    global _quiet
    _quiet = quiet
    if quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # huggingface_hub reads it when it is imported


def shows_progress() -> bool:
    """Return whether to draw progress: standard error is a terminal, and --quiet is off."""
    return not _quiet and sys.stderr.isatty()


def wrapped(start: str, text: str, *, after_commas: bool = False) -> list[str]:
    """Return `start` and `text` as lines of at most `WIDTH` columns; `text` is indented past `start` in each.

    A longer word is not broken. `after_commas` breaks lines only after commas, which keeps a number with its unit.
    """
    text = visible(text)
    if after_commas:
        text = text.replace(" ", "\0").replace(",\0", ", ")
    lines = textwrap.wrap(text, WIDTH - len(start), break_long_words=False, break_on_hyphens=False) or [""]
    return [start + lines[0].replace("\0", " "), *(" " * len(start) + line.replace("\0", " ") for line in lines[1:])]


class TextWriter:
    """Standard output for the text of a model: unchanged, but on a terminal without control codes.

    On a terminal, newlines and tabs stay, and any other code becomes a visible escape. A sequence that spans two pieces
    is also harmless, because its first character is escaped.
    """

    def __init__(self) -> None:
        self._on_terminal = sys.stdout.isatty()
        self._held = ""  # a carriage return, which is half of a newline if a line feed follows

    def write(self, text: str) -> None:
        """Print a piece and flush it."""
        if self._on_terminal:
            text = self._held + text
            self._held = "\r" * text.endswith("\r")
            text = _ACTED_ON.sub(_escape, text.removesuffix(self._held))
        print(text, end="", flush=True)

    def end(self) -> None:
        """End the text and its line."""
        print(_ACTED_ON.sub(_escape, self._held), flush=True)
        self._held = ""


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))


def _escape(found: re.Match[str]) -> str:
    return "\n" if found[0] == "\r\n" else visible(found[0])
