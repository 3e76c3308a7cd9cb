"""The commands on a pseudo-terminal: control codes are escaped and progress is drawn, only there."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.story import STORY, write_story_gguf
from tests.support.terminals import Shown, codes, on_terminal

# A model's text: it sets the title, then has CSI of C1 in UTF-8, a lone carriage return, a backspace, and DEL.
TOLD = "\x1b]0;w\x07\u009b31m\ra\x08b\x7f\tc\nd"
SHOWN = "\\x1b]0;w\\x07\\x9b31m\\ra\\x08b\\x7f\tc\nd"
NAME = "m\x1b[31m\x9b2J\u202e\n\x07.gguf"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("a\x1b]0;folder\x07")


@pytest.fixture(scope="module")
def gguf(folder: Path) -> Path:
    """A file with control codes in its name and metadata, and in the text that the model generates."""
    path = write_story_gguf(folder / NAME, text=TOLD)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"<|eot_id|>", b"<\x1b[2J\x07\x08|>x"))
    return path


@pytest.fixture(scope="module")
def damaged(folder: Path, gguf: Path) -> Path:
    """A file with control codes in the name of a tensor, which no model has."""
    path = folder / "damaged.gguf"
    path.write_bytes(gguf.read_bytes().replace(b"output_norm.weight", b"out\x1b[2J\x07m.weight"))
    return path


@pytest.fixture(scope="module", autouse=True)
def cache(folder: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMA3_CACHE", str(folder / "cache"))
        yield folder / "cache"


def command(name: str, *words: str | Path, **options: object) -> Shown:
    return on_terminal([Path(sys.executable).parent / f"llama3-{name}", *words], **options)  # type: ignore[arg-type]


def test_text_and_echo(gguf: Path) -> None:
    """Control codes are escapes on a terminal and unchanged in a pipe, in the prompt as well as in the text."""
    words = ("--model-path", gguf, "--temperature", "0", "--prompt", "A\x1b[1m\r\nB", "--quiet")
    shown = command("run", *words)
    assert (shown.status, shown.terminal.decode()) == (0, f"A\\x1b[1m\nB{SHOWN}\n")
    piped = command("run", *words, streams=["stderr"])
    assert (piped.status, piped.piped.decode(), piped.terminal) == (0, f"A\x1b[1m\r\nB{TOLD}\n", b"")
    whole = command("run", *words, "--no-stream")
    assert whole.terminal == shown.terminal


@pytest.mark.parametrize(
    ("name", "words", "status"),
    [
        ("run", ["--model-path", "GGUF", "-n", "3", "--prompt", "\x1b[2J"], 0),
        ("run", ["--model-path", "GGUF", "--ops", "contrib", "--stop", "\x1b", "--stop", "\\n"], 0),
        ("run", ["--model-path", "GGUF", "--json", "--prompt", "\x7f\x9b\u202e"], 0),
        ("run", ["--model-path", "GGUF", "--quantization-encoding", "q6_k"], 1),
        ("run", ["--model-path", "GGUF/\x1b[2J"], 1),
        ("run", ["--model", "\x1b[2J\x9b"], 1),
        ("run", ["--model-path", "GGUF", "\x1b[2J"], 2),
        ("run", ["--\x1b[2J"], 2),
        ("run", ["--model-path", "GGUF", "--provider", "\x1b[2J"], 2),
        ("bench", ["--model-path", "GGUF", "--prompt-size", "8", "--output-size", "2", "--repetitions", "1"], 0),
        ("bench", ["--model-path", "GGUF", "--depth", "999"], 1),
        ("bench", ["--model-path", "GGUF", "--compare", "\x1b[2J"], 2),
        ("export", ["GGUF", "--output", "FOLDER/out\x1b[2J\u202e"], 0),
        ("export", ["GGUF", "--output", "FOLDER/out\x1b[2J\u202e"], 1),
        ("export", ["FOLDER/gone\x1b[2J.gguf", "--output", "FOLDER/x"], 1),
        ("inspect", ["GGUF", "--tensors"], 0),
        ("inspect", ["GGUF", "--json"], 0),
        ("inspect", ["FOLDER/out\x1b[2J\u202e"], 0),
        ("inspect", ["FOLDER"], 1),
        ("inspect", ["DAMAGED"], None),
        ("run", ["--model-path", "DAMAGED"], 1),
        ("export", ["DAMAGED", "--output", "FOLDER/y"], 1),
    ],
)
def test_names_out_of_files(
    folder: Path, gguf: Path, damaged: Path, name: str, words: list[str], status: int | None
) -> None:
    """Tables, summaries, notices, warnings and errors contain no control codes, on both streams."""
    places = {"GGUF": gguf, "DAMAGED": damaged, "FOLDER": folder}
    shown = command(name, *(re.sub("[A-Z]{4,}", lambda found: str(places[found[0]]), word) for word in words))
    assert status is None or shown.status == status, shown.terminal
    assert codes(shown.terminal) == set()
    assert shown.terminal


def test_advice_can_be_pasted(folder: Path, gguf: Path) -> None:
    """The command that an export prints runs in a shell, whatever the folder's name."""
    output = folder / "run it\x1b[2J's"
    shown = command("export", gguf, "--output", output)
    assert shown.status == 0
    line = next(line for line in shown.terminal.decode().splitlines() if line.startswith("Run it:  "))
    result = on_terminal(["bash", "-c", f"{Path(sys.executable).parent}/{line.removeprefix('Run it:  ')} -n 3"])
    assert result.status == 0, result.terminal
    assert result.terminal.startswith(b"I believe")


@pytest.fixture(scope="module")
def long_gguf(folder: Path) -> Path:
    return write_story_gguf(folder / "long.gguf", context_length=8192)


def test_progress_of_a_long_prompt(long_gguf: Path) -> None:
    """The bar is removed before the prompt and the text; a pipe, --quiet or a single chunk has no bar."""
    prompt = "q" * 999
    words = ("--model-path", long_gguf, "--prompt", prompt, "--max-length", "2000", "--chunk-size", "100")
    shown = command("run", *words)
    before, text = shown.terminal.decode().rsplit("\r", 1)
    assert re.search(r"reading the prompt: +0%.*0/1000 ", before)
    assert re.search(r"\r +$", before)  # the bar is cleared
    assert text.startswith(f"{prompt}{STORY}\n")
    assert shown.status == 0
    piped = command("run", *words, streams=["stdout"])
    assert piped.terminal.decode() == f"{prompt}{STORY}\n"
    assert piped.piped.startswith(b"Prompt size: 1000\n")
    assert command("run", *words, "--quiet").terminal.decode() == f"{prompt}{STORY}\n"
    assert b"reading" not in command("run", *words[:-1], "1000").terminal
    as_json = command("run", *words, "--json", streams=["stderr"])
    assert b"reading the prompt" in as_json.terminal
    assert as_json.piped.startswith(b"{")


def test_a_prompt_that_is_typed(long_gguf: Path) -> None:
    """A line says what to do, because nothing else happens until Ctrl-D."""
    words = ("--model-path", long_gguf, "--prompt", "-")
    shown = command("run", *words, typed=b"Hello\n\x04")
    assert shown.status == 0
    first, rest = shown.terminal.split(b"\n", 1)
    assert first.startswith(b"Type the prompt")
    assert b"Ctrl-D" in first
    assert f"Hello{STORY}\n".encode() in rest
    quiet = command("run", *words, "--quiet", typed=b"Hello\n\x04")
    assert quiet.terminal.decode() == f"Hello{STORY}\n"


def test_a_locale_of_ascii(folder: Path, long_gguf: Path) -> None:
    """A model's name, a prompt and a stop text in UTF-8 work as in any other locale."""
    other = folder / "modèle 日本.gguf"
    other.hardlink_to(long_gguf)
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"}
    shown = command("run", "--model-path", other, "-p", "é日", "--stop", "\U0001f600", "--quiet", env=environment)
    assert (shown.status, shown.terminal.decode()) == (0, "é日bcd\n")
    shown = command("inspect", other, env=environment)
    assert (shown.status, shown.terminal.decode().split("\n")[0]) == (0, "modèle 日本.gguf")
    shown = command("export", other, "--output", folder / "sortie é", env=environment)
    assert shown.status == 0, shown.terminal
    assert "sortie é" in shown.terminal.decode()


@pytest.mark.parametrize("name", ["run", "bench", "export", "inspect"])
@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_pages_fit_80_columns(name: str, words: list[str]) -> None:
    shown = command(name, *words)
    assert shown.status == 0
    assert max(map(len, shown.terminal.decode().splitlines())) < 80
