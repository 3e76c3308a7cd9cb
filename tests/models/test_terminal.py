"""Control codes in files and in a model's text never reach a terminal; a pipe gets a model's text unchanged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata

import pytest
from llama3_models.terminal import WIDTH, notice, set_quiet, shell_word, show, show_json, visible, wrapped

from tests.support.terminals import codes, on_terminal

# Set the title; clear the screen; write to the clipboard; CSI of C1; overrides and isolates; newlines of all kinds.
HOSTILE = [
    "\x1b]0;title\x07",
    "\x1b[2J\x1b[31m",
    "\x1b]52;c;aGk=\x1b\\",
    "\x9b31m\x85\x90q\x9c",
    "\x00\x07\x08\x0b\x0c\x7f",
    "\u202egnp.exe\u202c",
    "\u2066a\u2069\u200b\u2028\u2029",
    "a\rb\nc\td",
    "\udcff\ud800",
    "\U000e0041",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_visible(text):
    """By Unicode's categories, no control, format, surrogate or separator character is left, except the space."""
    shown = visible(f"before {text} after")
    assert {c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")} == set()
    assert shown.startswith("before ")
    assert shown.endswith(" after")


@pytest.mark.parametrize("text", ["", "model.gguf", "Modèle 日本 ☃ 🦙.gguf", "back\\slash \\x1b"])
def test_what_can_be_seen_stays(text):
    assert visible(text) == text


def test_show_and_notice(capsys, monkeypatch):
    """A newline in a name does not begin a new line, which could look like one of ours."""
    show("one", "two\nllama3-run: error: forged\x1b[0m")
    notice("three\x1b[0m")
    assert capsys.readouterr() == ("one\ntwo\\nllama3-run: error: forged\\x1b[0m\n", "three\\x1b[0m\n")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "")  # restores it after the test, because set_quiet sets it
    set_quiet(True)
    notice("four")
    set_quiet(False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("text", HOSTILE)
def test_json_is_printable_ascii(capsys, text):
    show_json({"text": text}, indent=1)
    out = capsys.readouterr().out
    assert all(c == "\n" or " " <= c <= "~" for c in out)
    assert json.loads(out) == {"text": text}


PATHS = ["it's", "a\\b\x1b'c", "\udcff x", "plain/path.gguf", "two words", "é", "", *HOSTILE]


@pytest.mark.parametrize("text", [path for path in PATHS if not set(path) & {"\x00", "\ud800"}])
def test_a_word_for_the_shell(text):
    """Bash reads the word as the text."""
    word = shell_word(text)
    assert word.isprintable()
    found = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True).stdout
    assert found == os.fsencode(text)


def test_wrapped():
    """Only a word that cannot be broken, such as a path, makes a line wider than a terminal."""
    lines = wrapped("  note  ", "Some text that has to be broken somewhere, since it is long. " * 3)
    assert len(lines) == 3
    assert max(map(len, lines)) <= WIDTH
    assert all(line.startswith("        ") for line in lines[1:])
    path = "/a/" + "path/" * 20
    assert wrapped("  note  ", f"see {path} there") == ["  note  see", f"        {path}", "        there"]
    assert wrapped("  none  ", "") == ["  none  "]
    types = ", ".join(f"Q{number}_K 1,234.5 MB (21)" for number in range(7))
    lines = wrapped("  types ", types, after_commas=True)
    assert max(map(len, lines)) <= WIDTH
    assert [line[8:].count("(21)") for line in lines] == [3, 3, 1]
    assert " ".join(line[8:] for line in lines) == types


WRITE = """
import sys
from llama3_models.terminal import TextWriter
sys.stdout.reconfigure(encoding="utf-8")
writer = TextWriter()
for piece in {pieces!r}:
    writer.write(piece)
writer.end()
"""


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["plain\n\ttext é 🦙"], "plain\n\ttext é 🦙\n"),
        (["\x1b[31mred\x1b[0m"], "\\x1b[31mred\\x1b[0m\n"),
        (["a\x1b", "[2", "Jb"], "a\\x1b[2Jb\n"),  # a sequence in three pieces
        (["\x1b]52;c;", "aGk=\x07"], "\\x1b]52;c;aGk=\\x07\n"),
        (["\x9b", "31m\x85\x7f\x00\x08"], "\\x9b31m\\x85\\x7f\\x00\\x08\n"),
        (["\u202eabc\u202d"], "\\u202eabc\\u202d\n"),
        (["\u05d0\u200f\u2067\u05d1\u2069 \u0645\u06cc\u200c\u062e"], None),  # characters that scripts need stay
        (["one\r\ntwo\r", "\nthree"], "one\ntwo\nthree\n"),
        (["100%\r", "0%", "\r"], "100%\\r0%\\r\n"),
        (["\r", "\r", "\n"], "\\r\n\n"),
        ([], "\n"),
    ],
)
def test_text_of_a_model(pieces, shown):
    """On a terminal, control codes become escapes, wherever pieces end; a pipe gets the text unchanged."""
    program = [sys.executable, "-c", WRITE.format(pieces=pieces)]
    raw = "".join(pieces) + "\n"
    found = on_terminal(program)
    assert (found.status, found.terminal.decode()) == (0, raw if shown is None else shown)
    if shown is not None:
        assert codes(found.terminal) == set()
    piped = on_terminal(program, streams=["stderr"])
    assert (piped.piped.decode(), piped.terminal) == (raw, b"")
