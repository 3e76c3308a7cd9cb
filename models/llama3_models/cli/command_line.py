"""The command line of all programs here: a typed function becomes options, help and exit statuses.

Fire calls the function. By itself, fire would call it before complaining about unknown flags, turn text into Python
literals (`--prompt 123` would be a number) and use the last of two equal flags. So the words are first sorted by the
function's signature, and fire gets each as `--name=text` with the parse function of its type.
"""

import codecs
import contextlib
import errno
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import fire
from fire.decorators import SetParseFns

from llama3_models import terminal
from llama3_models.cli.arguments import HELP, Arguments, Option, parse_value, read_arguments, read_signature
from llama3_models.cli.help import format_help, format_version
from llama3_models.errors import Llama3Error, UsageError
from llama3_models.shortage import shortage

INTERRUPTED = 130  # 128 + SIGINT, as in a shell
PIPE_CLOSED = 141  # 128 + SIGPIPE

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the error of a failed write has no file name


@dataclass(frozen=True)
class Page:
    """The text that a switch such as --list-models prints; `help` is its line in the help."""

    help: str
    text: Callable[[], str]


def run(
    command: Callable[..., int | None],
    argv: Sequence[str] | None = None,
    *,
    name: str,
    groups: Mapping[str, Sequence[str]] | None = None,
    pages: Mapping[str, Page] | None = None,
    letters: Mapping[str, str] | None = None,
    meant: Callable[[str], str | None] | None = None,
) -> int:
    """Call a command with the arguments of a command line.

    Args:
        command: A function with typed parameters. It returns the exit status; None means 0.
        argv: The arguments, without the program's name; by default those of this process.
        name: The program's name in messages and help.
        groups: Headings of the help, each with its parameters; the rest come under "Options".
        pages: Switches besides --help, such as "--list-models", that print a page and end the command.
        letters: Letters of short options, each with its parameter.
        meant: Returns the parameter that a word without an option was probably meant for, for the error line.

    Returns:
        The exit status: 0; 1 for a `Llama3Error`, a file that cannot be read or written, or too little memory; 2 for a
        wrong command line; 130 after Ctrl-C; 141 if the reader of the output has gone away. Any other exception is a
        bug and is raised.
    """
    if argv is None:
        _restart_in_utf8()
    _prepare_streams()
    terminal.set_quiet(False)
    # ONNX Runtime's packages report usage from 1.29 on, unless this is set before they are loaded.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        options = read_signature(command, letters)
        pages = {**(pages or {}), "--version": _version_page(options)}
        arguments = read_arguments(options, sys.argv[1:] if argv is None else argv, list(pages), meant)
        return _execute(command, options, arguments, name, groups or {}, pages)
    except UsageError as error:
        return _fail(name, f"{error} (see {name} --help)", 2)
    except Llama3Error as error:
        return _fail(name, str(error), 1)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return PIPE_CLOSED
    except OSError as error:
        if (error.filename is None and error.errno not in _DISK_ERRORS) or error.errno == errno.ENOMEM:
            return _fail_for_shortage(name, error)
        where = "cannot write" if error.filename is None else os.fsdecode(error.filename)
        return _fail(name, f"{where}: {error.strerror or error}", 1)
    except Exception as error:  # libraries report a lack of memory or threads with any type of exception
        return _fail_for_shortage(name, error)
    finally:
        _discard_unwritable_output()


def check_ranges(options: Mapping[str, tuple[int | None, int]]) -> None:
    """Check that each option has at least its minimum value; None passes.

    Raises:
        UsageError: A value is less.
    """
    for name, (value, least) in options.items():
        if value is not None and value < least:
            raise UsageError(f"--{name} must be {least} or more, not {value}")


def _execute(
    command: Callable[..., int | None],
    options: Sequence[Option],
    arguments: Arguments,
    name: str,
    groups: Mapping[str, Sequence[str]],
    pages: Mapping[str, Page],
) -> int:
    status = 0
    if arguments.asks_for == HELP:
        shown = {flag: page.help for flag, page in pages.items()}
        print(format_help(command, options, name=name, groups=groups, pages=shown))
    elif arguments.asks_for is not None:
        print(pages[arguments.asks_for].text())
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(_WarningFormatter(f"{name}: warning: %(message)s"))
        logging.basicConfig(handlers=[handler], level=logging.WARNING)
        status = _call(command, options, arguments.given, name) or 0
    sys.stdout.flush()
    return status


class _WarningFormatter(logging.Formatter):
    """Log records as single lines that are safe on a terminal, even if names in them contain control codes."""

    def format(self, record: logging.LogRecord) -> str:
        return terminal.visible(super().format(record))


def _call(
    command: Callable[..., int | None], options: Sequence[Option], given: Mapping[str, Sequence[str]], name: str
) -> int | None:
    by_name = {option.name: option for option in options}
    parsers: dict[str, Callable[[str], object]] = {}
    words = []
    for option_name, texts in given.items():
        option = by_name[option_name]
        parsers[option_name] = _parser(option)
        # Fire keeps one text per name, so the texts of a repeatable option are passed as one JSON array.
        words.append(f"--{option_name}={json.dumps(texts) if option.repeatable else texts[0]}")
    result: int | None = fire.Fire(SetParseFns(**parsers)(command), command=words, name=name, serialize=_no_text)
    return result


def _parser(option: Option) -> Callable[[str], object]:
    if option.repeatable:
        return lambda texts: tuple(parse_value(option, text) for text in json.loads(texts))
    return lambda text: parse_value(option, text)


def _no_text(_: object) -> None:
    """Keep fire from printing the result of a command."""


def _version_page(options: Sequence[Option]) -> Page:
    show = "Without a value, show" if any(option.name == "version" for option in options) else "Show"
    return Page(f"{show} package and library versions and exit.", format_version)


def _restart_in_utf8() -> None:
    """Restart the program in UTF-8 if the locale's encoding is ASCII.

    Otherwise neither Python nor the libraries could use file names or arguments that are not ASCII. Python chooses
    UTF-8 by itself in the locales C and POSIX, but not with PYTHONUTF8=0 or in other ASCII locales.
    """
    if codecs.lookup(sys.getfilesystemencoding()).name == "ascii" and sys.executable:
        with contextlib.suppress(OSError):  # without a restart, ASCII names still work
            os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _prepare_streams() -> None:
    """Make it safe to write to both streams, even if one was closed when the process started.

    Otherwise `print` would write to the other stream, and the next file that is opened would get the free descriptor
    and everything that a library writes to it. Also escape characters that the terminal's encoding does not have.
    """
    null = os.open(os.devnull, os.O_RDWR)
    while null <= 2:
        null = os.open(os.devnull, os.O_RDWR)
    os.close(null)
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:
            setattr(sys, stream, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _fail(name: str, message: str, status: int) -> int:
    line = " ".join(part.strip() for part in message.splitlines() if part.strip())
    with contextlib.suppress(OSError):  # the reader may be gone
        terminal.show(f"{name}: error: {line}", file=sys.stderr)
    return status


def _fail_for_shortage(name: str, error: Exception) -> int:
    """Print one line for too little memory or too few threads; raise any other exception, which is a bug."""
    problem = shortage(error)
    if problem is None:
        raise error
    return _fail(name, problem, 1)


def _discard_unwritable_output() -> None:
    """Redirect a stream that fails to the null device; otherwise Python's flush at exit would complain again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
