"""The words of a command line, sorted into the options of a function's signature, and their typed values.

Parameters before `*` are positional, the others are options. `bool` is a switch with a `--no-` form, `Literal` a
choice, `tuple[T, ...]` an option that may be repeated. Everything that does not fit is refused before anything runs.

The word after an option that needs a value is its value, unless it is one of the command's own long options: then the
value was forgotten. To use such a word as text, write it after an equals sign: `--prompt=--json`.
"""

import difflib
import inspect
import math
import re
import types
import typing
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llama3_models.errors import UsageError

HELP = "--help"

# Minimum similarity by difflib: typos of one or two letters reach it, --interactive and --temperature do not.
_NEAR = 0.8


# Decimal numbers: float() would also accept "1_0", " 1 " and digits of other scripts.
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


class MaybePath(str):
    """The type of a value that may be a path or other text. A path need not be UTF-8."""


@dataclass(frozen=True)
class Option:
    """One parameter of a command, as declared in its signature."""

    name: str
    type: type  # bool, int, float, str, Path or MaybePath: the type of one value
    choices: tuple[str, ...]  # of a Literal, otherwise empty
    default: object  # inspect.Parameter.empty if the option is required
    positional: bool
    repeatable: bool
    letter: str = ""  # of its short form, `n` for -n; empty if it has none

    @property
    def flag(self) -> str:
        """The option as written on a command line, `--max-length`."""
        return "--" + self.name.replace("_", "-")

    @property
    def required(self) -> bool:
        """Whether the command cannot be called without it."""
        return self.default is inspect.Parameter.empty

    @property
    def label(self) -> str:
        """Its name in messages: a positional argument does not have a flag."""
        return self.name.upper() if self.positional else self.flag

    @property
    def takes_any_text(self) -> bool:
        """Whether a value may look like an option."""
        return self.type in (str, Path, MaybePath) and not self.choices


def read_signature(command: Callable[..., object], letters: Mapping[str, str] | None = None) -> list[Option]:
    """Read a command's options from its signature.

    Args:
        command: The function.
        letters: Short forms: letters, each with its parameter.

    Raises:
        TypeError: An annotation is not supported, or a letter has an unknown parameter; a programming error.
    """
    hints = typing.get_type_hints(command)
    letter_of = {name: letter for letter, name in (letters or {}).items()}
    parameters = inspect.signature(command).parameters
    if unknown := letter_of.keys() - parameters.keys():
        raise TypeError(f"short options for unknown parameters: {', '.join(unknown)}")
    options = []
    for parameter in parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{parameter.name}: a command cannot have *args or **kwargs")
        hint, repeatable, choices = _without_none(hints[parameter.name]), False, ()
        if typing.get_origin(hint) is tuple:
            hint, repeatable = typing.get_args(hint)[0], True
        if typing.get_origin(hint) is typing.Literal:
            hint, choices = str, typing.get_args(hint)
        if hint not in (bool, int, float, str, Path, MaybePath):
            raise TypeError(f"{parameter.name}: {hint} is not supported on a command line")
        positional = parameter.kind is not parameter.KEYWORD_ONLY
        letter = letter_of.get(parameter.name, "")
        options.append(Option(parameter.name, hint, choices, parameter.default, positional, repeatable, letter))
    return options


@dataclass
class Arguments:
    """A command line, sorted by option.

    Attributes:
        given: The texts of each option that was used; more than one only if it is repeatable.
        asks_for: The switch that asks for a page instead of a run, if any.
    """

    given: dict[str, list[str]] = field(default_factory=dict)
    asks_for: str | None = None


def read_arguments(
    options: Sequence[Option],
    words: Sequence[str],
    pages: Sequence[str] = (),
    meant: Callable[[str], str | None] | None = None,
) -> Arguments:
    """Sort the words of a command line by option, without looking at types.

    Args:
        options: The command's options.
        words: The command line.
        pages: Switches besides --help that ask for a page. If an option has the same name, it is the option only when
            a value follows.
        meant: Returns the option that a word without one was probably meant for, for the error line.

    Raises:
        UsageError: An option is unknown, repeated or missing, a value is missing, or there are too many positional
            arguments; never if a page is asked for.
    """
    reader = _Reader(options, words, pages)
    reader.read()
    if reader.arguments.asks_for is not None:
        return reader.arguments
    if reader.mistakes:
        raise UsageError(reader.mistakes[0])
    given = reader.arguments.given
    if reader.stray is not None:
        name = meant(reader.stray) if meant else None
        raise UsageError(f"unexpected argument {_quote(reader.stray)}{_advice(options, given, name)}")
    missing = [option.label for option in options if option.required and option.name not in given]
    if missing:
        raise UsageError(f"missing {', '.join(missing)}")
    return reader.arguments


class _Reader:
    """One pass over the words; it continues after a mistake, because --help may follow.

    Attributes:
        arguments: The result.
        mistakes: Error messages, in the order of the words.
        stray: The first positional argument that no parameter is left for.
    """

    def __init__(self, options: Sequence[Option], words: Sequence[str], pages: Sequence[str]) -> None:
        self.arguments = Arguments()
        self.mistakes: list[str] = []
        self.stray: str | None = None
        self._queue = deque(words)
        self._pages = pages
        self._flags = {option.flag: (option, True) for option in options}
        self._flags |= {"--no-" + option.flag[2:]: (option, False) for option in options if option.type is bool}
        self._letters = {option.letter: option for option in options if option.letter}
        self._waiting = deque(option for option in options if option.positional)

    def read(self) -> None:
        """Sort all words."""
        queue = self._queue
        while queue:
            word = queue.popleft()
            if word == "--":
                while queue:
                    self._take_positional(queue.popleft())
            elif word in ("-h", HELP):
                self.arguments.asks_for = HELP
            elif self._is_page(_hyphenated(word)):
                self.arguments.asks_for = self.arguments.asks_for or _hyphenated(word)
            elif _is_plain(word):
                self._take_positional(word)
            elif word.startswith("--"):
                self._take_long(word)
            else:
                self._take_short(word)

    def _is_page(self, flag: str) -> bool:
        option, _ = self._flags.get(flag, (None, True))
        return flag in self._pages and (option is None or self._value_is_missing(option))

    def _take_positional(self, word: str) -> None:
        # A positional argument may already have been given by name.
        while self._waiting and self._waiting[0].name in self.arguments.given:
            self._waiting.popleft()
        if self._waiting:
            self.arguments.given[self._waiting.popleft().name] = [word]
        elif self.stray is None:
            self.stray = word

    def _take_long(self, word: str) -> None:
        flag, equals, text = word.partition("=")
        option, affirmative = self._flags.get(_hyphenated(flag), (None, True))
        if option is None:
            self.mistakes.append(f"unknown option {_quote(flag)}{_nearest_flag(flag, self._all_flags())}")
        elif affirmative:
            self._take(option, flag, text if equals else None)
        elif equals:
            self.mistakes.append(f"{flag} does not accept a value")
        else:
            self._take(option, flag, "false")

    def _take_short(self, word: str) -> None:
        """Read `-n 5`, `-n=5` or, for numbers, `-n5`."""
        option, rest = self._letters.get(word[1]), word[2:]
        if option is None or (rest and not rest.startswith("=") and not _begins_number(option, rest)):
            near = _nearest_flag(word, self._all_flags())
            if option is not None and not near:
                near = f"; put a space between {word[:2]} and its value"
            self.mistakes.append(f"unknown option {_quote(word)}{near}")
        else:
            self._take(option, word[:2], rest.removeprefix("=") if rest else None)

    def _take(self, option: Option, flag: str, text: str | None) -> None:
        """Record an option; its value is the next word if `text` is None."""
        if text is None:
            text = self._following_value(option, flag)
        if text is None:
            return
        if option.name in self.arguments.given and not option.repeatable:
            self.mistakes.append(f"{option.label} is given twice")
        self.arguments.given.setdefault(option.name, []).append(text)

    def _following_value(self, option: Option, flag: str) -> str | None:
        queue = self._queue
        if option.type is bool:
            return queue.popleft() if queue and queue[0].lower() in ("true", "false") else "true"
        if self._value_is_missing(option):
            as_text = f" (write {flag}={queue[0]} if that is the value)" if queue and option.takes_any_text else ""
            self.mistakes.append(f"{flag} needs a value{as_text}")
            return None
        return queue.popleft()

    def _value_is_missing(self, option: Option) -> bool:
        if not self._queue:
            return True
        word = self._queue[0]
        if option.takes_any_text:
            return _hyphenated(word.partition("=")[0]) in self._all_flags()
        return not _is_plain(word)

    def _all_flags(self) -> list[str]:
        return [*self._flags, HELP, *self._pages]


def parse_value(option: Option, text: str) -> object:
    """Convert the text of one value to the option's type.

    Raises:
        UsageError: The text is not such a value; the message says what is expected.
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
        # At most 18 digits: no option needs more than 64 bits. int() would also accept "1_0" and " 1 ".
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            raise _wrong_value(option, text, "a whole number")
        return int(text)
    if option.type is float:
        if not _NUMBER.fullmatch(text) or not math.isfinite(number := float(text)):
            raise _wrong_value(option, text, "a number")
        return number
    if option.type is Path:
        if not text or "\0" in text:
            raise _wrong_value(option, text, "a path")
        return Path(text)
    if option.type is MaybePath or option.positional:
        if not text:
            raise _wrong_value(option, text, "a path or a name")
        return text
    try:
        text.encode()  # bytes that are not UTF-8 arrive as lone surrogates
    except UnicodeEncodeError:
        raise _wrong_value(option, text, "text in UTF-8") from None
    return text


def _without_none(hint: object) -> typing.Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (argument for argument in typing.get_args(hint) if argument is not types.NoneType)
    return hint


def _is_plain(word: str) -> bool:
    """Return whether a word is not a flag: text, a lone dash (standard input), or a negative number."""
    return not word.startswith("-") or word == "-" or re.match(r"-[0-9.]", word) is not None


def _begins_number(option: Option, text: str) -> bool:
    return option.type in (int, float) and re.match(r"[+-]?[0-9.]", text) is not None


def _hyphenated(flag: str) -> str:
    """Return a long option as declared; --max_length is accepted as well."""
    return flag.replace("_", "-")


def _nearest_flag(flag: str, flags: Sequence[str]) -> str:
    wanted = "--" + _hyphenated(flag.lstrip("-")).lower()
    if wanted.startswith("--no-"):  # the opposite would be similar, but no help
        flags = [known for known in flags if known.startswith("--no-")]
    near = [known for known in flags if len(wanted) > 3 and known.startswith(wanted)]
    near += difflib.get_close_matches(wanted, flags, n=1, cutoff=_NEAR)
    return f"; did you mean {near[0]}?" if near else ""


def _advice(options: Sequence[Option], given: Mapping[str, object], name: str | None) -> str:
    """Say what to do about a word without an option, which was meant for the option `name`."""
    for option in options:
        if option.name == name:
            once = option.name in given and not option.repeatable
            return "; put quotes around a text with spaces" if once else f"; put {option.flag} before it"
    return ""


def _wrong_value(option: Option, text: str, expected: str) -> UsageError:
    return UsageError(f"{option.label}: expected {expected}, not {_quote(text)}")


def _quote(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
