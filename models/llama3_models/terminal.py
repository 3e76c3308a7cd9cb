"""What may reach a terminal: text out of files, and out of a model, without the codes that a terminal acts on.

File names, metadata, token texts and messages of libraries may hold anything: codes that move the cursor, set the title
or the clipboard, or reverse the direction of reading. A command prints lines with `show` and `notice`, and the text of
a model with `TextWriter`.
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
"""Columns of a line for people: a terminal of 80 may break a line that fills it."""

# Controls (C0 but tabs and line feeds, DEL, C1) and the two overrides of the reading direction, which no script needs.
_ACTED_ON: Final = re.compile("\r\n|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202d\u202e]")

_quiet = False


def visible(text: str) -> str:
    r"""A text as one line in which every character can be seen: others become escapes such as \x1b."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shell_word(text: str) -> str:
    """A text as one word of a shell's command that can be copied from a terminal, such as a path in advice."""
    if text.isprintable():
        return shlex.quote(text)
    # What bash, zsh and POSIX since 2024 read alike.
    return "$'" + "".join(c if c.isprintable() and c not in "\\'" else _octal(c) for c in text) + "'"


def show(*lines: str, file: TextIO | None = None) -> None:
    """Print lines for people, on standard output unless told otherwise. A line end within one is escaped."""
    if lines:
        print(*map(visible, lines), sep="\n", file=file, flush=True)


def show_json(data: object, *, indent: int | None = None) -> None:
    """Print data as JSON in printable ASCII, whatever the encoding of the output."""
    print(json.dumps(data, indent=indent).replace("\x7f", "\\u007f"), flush=True)


def notice(line: str) -> None:
    """Print what goes on to standard error, unless the user wants quiet."""
    if not _quiet:
        show(line, file=sys.stderr)


def set_quiet(quiet: bool) -> None:
    """Choose whether notices and progress are left out from now on."""
    global _quiet
    _quiet = quiet
    if quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # which huggingface_hub reads when it is imported


def shows_progress() -> bool:
    """Whether to draw progress on standard error: somebody looks at it, and wants to."""
    return not _quiet and sys.stderr.isatty()


def wrapped(start: str, text: str, *, after_commas: bool = False) -> list[str]:
    """Lines of at most `WIDTH` columns, but for long words: `start`, then `text`, all of it in the columns after it.

    `after_commas` breaks it only there, which keeps a number with its unit.
    """
    text = visible(text)
    if after_commas:
        text = text.replace(" ", "\0").replace(",\0", ", ")
    lines = textwrap.wrap(text, WIDTH - len(start), break_long_words=False, break_on_hyphens=False) or [""]
    return [start + lines[0].replace("\0", " "), *(" " * len(start) + line.replace("\0", " ") for line in lines[1:])]


class TextWriter:
    """Standard output for the text of a model: as it is, but on a terminal without control codes.

    There line ends and tabs stay, and any other code becomes a visible escape. A sequence that begins in one piece and
    ends in another is harmless, too, because nothing is left of its first character.
    """

    def __init__(self) -> None:
        self._on_terminal = sys.stdout.isatty()
        self._held = ""  # a carriage return: half of a line end, if a line feed follows

    def write(self, text: str) -> None:
        """Print a piece at once."""
        if self._on_terminal:
            text = self._held + text
            self._held = "\r" * text.endswith("\r")
            text = _ACTED_ON.sub(_escape, text.removesuffix(self._held))
        print(text, end="", flush=True)

    def end(self) -> None:
        """End the text, and its line."""
        print(_ACTED_ON.sub(_escape, self._held), flush=True)
        self._held = ""


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))


def _escape(found: re.Match[str]) -> str:
    return "\n" if found[0] == "\r\n" else visible(found[0])
