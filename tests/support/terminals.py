"""Programs on a pseudo-terminal of 80 columns, and their output there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import tty
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shown:
    """A program's exit status, and the bytes that it wrote to the terminal and, on the other stream, to a pipe."""

    status: int
    terminal: bytes
    piped: bytes


def on_terminal(
    command: Sequence[str | Path],
    *,
    streams: Sequence[str] = ("stdout", "stderr"),
    typed: bytes | None = None,
    env: dict[str, str] | None = None,
) -> Shown:
    """Run a program to its end.

    Args:
        command: The program and its arguments.
        streams: The streams that are the terminal; any other output stream is a pipe.
        typed: Text typed on the terminal, which is then also standard input.
        env: The environment.
    """
    ours, theirs = pty.openpty()
    tty.setraw(theirs)  # no echo, and line feeds stay line feeds
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    if typed is not None:
        mode = termios.tcgetattr(theirs)
        mode[3] |= termios.ICANON  # Ctrl-D ends the input
        termios.tcsetattr(theirs, termios.TCSANOW, mode)
        os.write(ours, typed)
    other = {"stdout", "stderr"} - set(streams)
    with subprocess.Popen(
        command,
        stdin=theirs if typed is not None else subprocess.DEVNULL,
        stdout=theirs if "stdout" in streams else subprocess.PIPE,
        stderr=theirs if "stderr" in streams else subprocess.PIPE,
        env={**(os.environ if env is None else env), "TERM": "xterm", "COLUMNS": "80"},
    ) as process:
        os.close(theirs)
        terminal = bytearray()
        try:
            while data := os.read(ours, 1 << 16):
                terminal += data
        except OSError:  # EIO: the program has closed it
            pass
        piped = getattr(process, other.pop()).read() if other else b""
        status = process.wait(timeout=60)
    os.close(ours)
    return Shown(status, bytes(terminal), piped)


def codes(shown: bytes) -> set[str]:
    r"""Return the control characters that a terminal acts on, except newlines, tabs, and the \r of progress bars."""
    controls = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
    directions = "\u202a-\u202e\u2066-\u2069"
    return set(re.findall(f"[{controls}{directions}]", shown.decode("utf-8")))
