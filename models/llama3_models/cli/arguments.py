"""Reads the words of a command line by a function's signature: which option each belongs to, and its typed value.

Parameters before `*` are positional, the others are options; `bool` is a switch with a `--no-` form, `Literal` a
choice, `tuple[T, ...]` an option that may be repeated. Everything that does not fit is refused before anything runs.
"""

import difflib
import inspect
import math
import re
import types
import typing
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama3_models.errors import UsageError


@dataclass(frozen=True)
class Option:
    """One parameter of a command, as its signature declares it."""

    name: str
    type: type  # bool, int, float, str or Path: the type of one value
    choices: tuple[str, ...]  # of a Literal, else empty
    default: object  # inspect.Parameter.empty where the option must be given
    positional: bool
    repeatable: bool

    @property
    def flag(self) -> str:
        """The option as it is written, `--max-length`."""
        return "--" + self.name.replace("_", "-")

    @property
    def required(self) -> bool:
        """Whether the command cannot be called without it."""
        return self.default is inspect.Parameter.empty

    @property
    def label(self) -> str:
        """What messages call it: a positional argument has no flag."""
        return self.name.upper() if self.positional else self.flag


def read_signature(command: Callable[..., object]) -> list[Option]:
    """Reads a command's options from its signature.

    Raises:
        TypeError: For an annotation that no command line can express; a mistake of the programmer's.
    """
    hints = typing.get_type_hints(command)
    options = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{parameter.name}: a command takes no *args or **kwargs")
        hint, repeatable, choices = _without_none(hints[parameter.name]), False, ()
        if typing.get_origin(hint) is tuple:
            hint, repeatable = typing.get_args(hint)[0], True
        if typing.get_origin(hint) is typing.Literal:
            hint, choices = str, typing.get_args(hint)
        if hint not in (bool, int, float, str, Path):
            raise TypeError(f"{parameter.name}: {hint} cannot be given on a command line")
        positional = parameter.kind is not parameter.KEYWORD_ONLY
        options.append(Option(parameter.name, hint, choices, parameter.default, positional, repeatable))
    return options


def read_arguments(options: Sequence[Option], words: Sequence[str]) -> dict[str, list[str]]:
    """Sorts the words of a command line by the option that they belong to, without looking at types.

    Returns:
        The texts given for each option that was given at all; more than one only where it is repeatable.

    Raises:
        UsageError: For an unknown, repeated or missing option, a missing value, or a positional argument too many.
    """
    flags = {option.flag: (option, True) for option in options}
    flags |= {"--no-" + option.flag[2:]: (option, False) for option in options if option.type is bool}
    waiting = deque(option for option in options if option.positional)
    given: dict[str, list[str]] = {}
    queue = deque(words)
    only_positional = False
    while queue:
        word = queue.popleft()
        if only_positional or _is_plain(word):
            # A positional argument that was already given by its name no longer waits for one.
            while waiting and waiting[0].name in given:
                waiting.popleft()
            if not waiting:
                raise UsageError(f"unexpected argument {_quote(word)}")
            given[waiting.popleft().name] = [word]
            continue
        if word == "--":
            only_positional = True
            continue
        flag, equals, text = word.partition("=")
        try:
            option, affirmative = flags[flag.replace("_", "-")]
        except KeyError:
            raise UsageError(f"unknown option {_quote(flag)}{_nearest_flag(flag, list(flags))}") from None
        if not affirmative:
            if equals:
                raise UsageError(f"{flag} takes no value")
            text = "false"
        elif not equals:
            text = _following_value(option, flag, queue)
        if option.name in given and not option.repeatable:
            raise UsageError(f"{option.label} is given twice")
        given.setdefault(option.name, []).append(text)
    missing = [option.label for option in options if option.required and option.name not in given]
    if missing:
        raise UsageError(f"missing {', '.join(missing)}")
    return given


def parse_value(option: Option, text: str) -> object:
    """Turns the text of one value into the option's type.

    Raises:
        UsageError: Where the text is no such value; names the option, the text and what is expected.
    """
    if option.choices:
        if text not in option.choices:
            raise _wrong_value(option, text, "one of " + ", ".join(option.choices))
        return text
    if option.type is bool:
        if text.lower() not in ("true", "false"):
            raise _wrong_value(option, text, "true or false")
        return text.lower() == "true"
    if option.type is int:
        # At most 18 digits: no option is larger than 64 bits, and int() itself would also take "1_0" and " 1 ".
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            raise _wrong_value(option, text, "a whole number")
        return int(text)
    if option.type is float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise _wrong_value(option, text, "a number")
        return number
    if option.type is Path:
        if not text or "\0" in text:
            raise _wrong_value(option, text, "a path")
        return Path(text)
    if option.positional:  # which may be a path, and that need not be UTF-8
        return text
    try:
        text.encode()  # bytes of the command line that are no UTF-8 arrive as lone surrogates
    except UnicodeEncodeError:
        raise _wrong_value(option, text, "text in UTF-8") from None
    return text


def _without_none(hint: object) -> typing.Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (argument for argument in typing.get_args(hint) if argument is not types.NoneType)
    return hint


def _is_plain(word: str) -> bool:
    """Whether a word is no flag: text, a lone dash (standard input), or a negative number."""
    return not word.startswith("-") or word == "-" or re.match(r"-[0-9.]", word) is not None


def _following_value(option: Option, flag: str, queue: deque[str]) -> str:
    if option.type is bool:
        return queue.popleft() if queue and queue[0].lower() in ("true", "false") else "true"
    if not queue:
        raise UsageError(f"{flag} needs a value")
    if queue[0].startswith("--"):
        raise UsageError(f"{flag} needs a value (write {flag}={queue[0]} if that is the value)")
    return queue.popleft()


def _nearest_flag(flag: str, flags: list[str]) -> str:
    wanted = "--" + flag.lstrip("-").replace("_", "-").lower()
    near = [known for known in flags if len(wanted) > 3 and known.startswith(wanted)]
    near += difflib.get_close_matches(wanted, flags, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _wrong_value(option: Option, text: str, expected: str) -> UsageError:
    return UsageError(f"{option.label}: expected {expected}, not {_quote(text)}")


def _quote(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
