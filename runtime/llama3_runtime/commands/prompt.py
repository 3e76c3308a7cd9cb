"""Where the prompt of `llama3-run` comes from: the command line, a file, or standard input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

from llama3_models.errors import Llama3Error, UsageError
from llama3_models.terminal import notice

DEFAULT_PROMPT = "I believe the meaning of life is"

# More than twice what the longest text in a cache of 131,072 tokens takes; an endless one must not fill the memory.
_MAX_BYTES = 16 << 20


def read_prompt(prompt: str | None, prompt_file: Path | None) -> str:
    """The text to continue.

    Raises:
        UsageError: Both are given.
        Llama3Error: There is no standard input, or what was read is too large or not UTF-8.
        OSError: The file cannot be read.
    """
    if prompt is not None and prompt_file is not None:
        raise UsageError("--prompt and --prompt-file cannot be used together")
    if prompt_file is not None and str(prompt_file) != "-":
        with prompt_file.open("rb") as file:  # of any kind: a shell's <(command) is a pipe
            return _read(file, str(prompt_file))
    if prompt_file is None and prompt != "-":
        return DEFAULT_PROMPT if prompt is None else prompt
    if sys.stdin is None:
        raise Llama3Error("--prompt - reads standard input, and there is none")
    if sys.stdin.isatty():
        notice("Type the prompt; end it with Ctrl-D on a line of its own.")
    return _read(sys.stdin.buffer, "standard input")


def _read(file: BinaryIO, name: str) -> str:
    """All of it, without a byte order mark and one line end, which are an editor's and not the text's."""
    data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise Llama3Error(f"{name} has more than {_MAX_BYTES:,} bytes: shorten it, no prompt is so long")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Llama3Error(f"{name} is not UTF-8 (byte {error.start}); convert it, with iconv for one") from None
    return text.removeprefix("\ufeff").removesuffix("\n").removesuffix("\r")
