"""The command line of every program here: a typed function becomes options, help and exit statuses.

Fire calls the function, but on its own it calls first and complains about unknown flags afterwards, turns text into
Python literals (`--prompt 123` would be a number) and takes the last of two equal flags. So the words are first
sorted by the function's signature, and fire gets each as `--name=text` with the parse function of its type.
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

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
PIPE_CLOSED = 141  # 128 + SIGPIPE

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a failed write carries no file name


@dataclass(frozen=True)
class Page:
    """What a switch such as --list-models prints; `help` is its line in the help."""

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
    """Calls a command with the arguments of a command line.

    Args:
        command: A function with typed parameters; what it returns is the exit status, None being 0.
        argv: The arguments, without the program's name; those of this process by default.
        name: The program's name in messages and help.
        groups: Headings of the help, each with the parameters below it; the rest come under "Options".
        pages: Switches besides --help, such as "--list-models", that print a page and end the command.
        letters: Letters of short options, each with its parameter.
        meant: The parameter that a word without an option was probably meant for, for the error.

    Returns:
        The exit status: 0, 1 for a `Llama3Error`, a file that the system refuses or too little memory, 2 for a wrong
        command line, 130 after Ctrl-C, 141 when the reader of the output has gone away. Any other exception is a bug
        and passes.
    """
    if argv is None:
        _restart_in_utf8()
    _prepare_streams()
    terminal.set_quiet(False)
    # ONNX Runtime's packages report usage from 1.29 on, unless told otherwise before they are loaded.
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
    except Exception as error:  # libraries say in exceptions of any type that memory or threads ran out
        return _fail_for_shortage(name, error)
    finally:
        _discard_unwritable_output()


def check_ranges(options: Mapping[str, tuple[int | None, int]]) -> None:
    """Holds each option's value, where it has one, against the least that it may be.

    Raises:
        UsageError: One is less.
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
    """One line that a terminal can show, whatever a name in it holds."""

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
        # Fire keeps one text for each name, so the texts of a repeatable option travel as one JSON array.
        words.append(f"--{option_name}={json.dumps(texts) if option.repeatable else texts[0]}")
    result: int | None = fire.Fire(SetParseFns(**parsers)(command), command=words, name=name, serialize=_no_text)
    return result


def _parser(option: Option) -> Callable[[str], object]:
    if option.repeatable:
        return lambda texts: tuple(parse_value(option, text) for text in json.loads(texts))
    return lambda text: parse_value(option, text)


def _no_text(_: object) -> None:
    """Keeps fire from printing what a command returns."""


def _version_page(options: Sequence[Option]) -> Page:
    bare = " (if no value follows)" if any(option.name == "version" for option in options) else ""
    return Page(f"Show the versions of package and libraries and exit{bare}.", format_version)


def _restart_in_utf8() -> None:
    """Starts the program once more in UTF-8 where its locale has nothing but ASCII.

    There Python opens no file whose name is not ASCII and reads no such argument, and neither do the libraries. Python
    does the same by itself in the locales C and POSIX, unless PYTHONUTF8=0 or another locale of ASCII stops it.
    """
    if codecs.lookup(sys.getfilesystemencoding()).name == "ascii" and sys.executable:
        with contextlib.suppress(OSError):  # then as it is
            os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _prepare_streams() -> None:
    """Makes it safe to write to both streams, whatever the process was started with.

    Where it was started without one, `print` would write to the other, and a file that is opened later would get its
    descriptor, and with it what a library writes there. A path may hold characters that the terminal has not.
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
    with contextlib.suppress(OSError):  # nobody may be reading any more
        terminal.show(f"{name}: error: {line}", file=sys.stderr)
    return status


def _fail_for_shortage(name: str, error: Exception) -> int:
    """One line for too little memory or too few threads; any other exception is a bug and passes."""
    problem = shortage(error)
    if problem is None:
        raise error
    return _fail(name, problem, 1)


def _discard_unwritable_output() -> None:
    """Points a stream that fails at the null device, or Python's own flush at exit would complain once more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
