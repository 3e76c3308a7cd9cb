"""The prompt of `llama3-run`, from the command line, a file, or standard input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

from llama3_models.errors import Llama3Error, UsageError
from llama3_models.terminal import notice

DEFAULT_PROMPT = "I believe the meaning of life is"

# More than twice the longest text in a cache of 131,072 tokens; endless input must not fill the memory.
_MAX_BYTES = 16 << 20


def read_prompt(prompt: str | None, prompt_file: Path | None) -> str:
    """Return the text to continue.

    Raises:
        UsageError: Both options are used.
        Llama3Error: There is no standard input, or the text is too large or not UTF-8.
        OSError: The file cannot be read.
    """
    if prompt is not None and prompt_file is not None:
        raise UsageError("--prompt and --prompt-file cannot be used together")
    if prompt_file is not None and str(prompt_file) != "-":
        with prompt_file.open("rb") as file:  # any kind of file: a shell's <(command) is a pipe
            return _read(file, str(prompt_file))
    if prompt_file is None and prompt != "-":
        return DEFAULT_PROMPT if prompt is None else prompt
    if sys.stdin is None:
        raise Llama3Error("standard input is closed; write the prompt after --prompt")
    if sys.stdin.isatty():
        notice("Type the prompt, then press Ctrl-D on an empty line.")
    return _read(sys.stdin.buffer, "standard input")


def _read(file: BinaryIO, name: str) -> str:
    """Read a prompt, without the byte order mark and the final newline that editors add."""
    data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise Llama3Error(f"{name}: has more than {_MAX_BYTES:,} bytes; use a shorter prompt")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Llama3Error(f"{name}: not UTF-8 (byte {error.start}); convert it, for example with iconv") from None
    return text.removeprefix("\ufeff").removesuffix("\n").removesuffix("\r")
