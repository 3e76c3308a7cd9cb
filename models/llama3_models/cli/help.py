"""The help page of a command, 80 columns wide, from its signature and docstring; and the page of --version.

Fire's own help goes through a pager to standard error, and shows neither choices nor the docstring's defaults.
"""

import contextlib
import importlib.metadata
import inspect
import platform
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from llama3_models.cli.arguments import MaybePath, Option
from llama3_models.terminal import WIDTH

_HELP_COLUMN = 26
_METAVARS = {int: "N", float: "X", str: "TEXT", MaybePath: "TEXT", Path: "PATH"}

# Versions for bug reports; --version shows those that are installed.
_LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "onnx", "gguf", "numpy", "huggingface_hub")


def format_help(
    command: Callable[..., object],
    options: Sequence[Option],
    *,
    name: str,
    groups: Mapping[str, Sequence[str]],
    pages: Mapping[str, str],
) -> str:
    """Return a command's help page.

    Args:
        command: The function. Its docstring has the summary, the help of each option, and the examples.
        options: The function's options, from `read_signature`.
        name: The program's name.
        groups: Headings, each with its parameters; the rest come under "Arguments" and "Options".
        pages: Switches that print a page, with the help of each.
    """
    sections = _docstring_sections(inspect.getdoc(command) or "")
    summary, _, description = sections[""].partition("\n\n")
    texts = _argument_texts(sections.get("Args", ""))
    needed = [_form(option) if option.required else f"[{_form(option)}]" for option in options if _in_usage(option)]
    parts = [
        _fill(f"{name} ({_package()}): {' '.join(summary.split())}"),
        _fill(" ".join(["usage:", name, *needed, "[options]"])),
    ]
    parts += [_fill(" ".join(paragraph.split())) for paragraph in description.split("\n\n") if paragraph.strip()]

    grouped = {option_name for names in groups.values() for option_name in names}
    by_name = {option.name: option for option in options}
    headings = {"Arguments": [option.name for option in options if option.positional and option.name not in grouped]}
    headings |= {heading: list(names) for heading, names in groups.items()}
    headings["Options"] = [o.name for o in options if not o.positional and o.name not in grouped]
    for heading, names in headings.items():
        entries = [_format_option(by_name[option_name], texts.get(option_name, "")) for option_name in names]
        if heading == "Options":
            entries.append(_format_entry("-h, --help", "Show this page and exit."))
            entries += [_format_entry(flag, text) for flag, text in pages.items()]
        if entries:
            parts.append("\n".join([f"{heading}:", *entries]))
    if "Examples" in sections:
        parts.append("Examples:\n" + textwrap.indent(sections["Examples"], "  "))
    return "\n\n".join(parts)


def _in_usage(option: Option) -> bool:
    return option.required or option.positional


def format_version() -> str:
    """Return the versions of this package, Python and the libraries."""
    libraries = [f"Python {platform.python_version()}"]
    for library in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            libraries.append(f"{library} {importlib.metadata.version(library)}")
    return f"{_package()}\n{_fill('with ' + ', '.join(libraries))}"


def _package() -> str:
    return f"llama3-onnx {importlib.metadata.version('llama3-onnx')}"


def _docstring_sections(docstring: str) -> dict[str, str]:
    """Split a Google-style docstring at its headings; the text before the first has the key ""."""
    pieces = re.split(r"^(Args|Returns|Raises|Examples):[ ]*$", docstring, flags=re.MULTILINE)
    bodies = [textwrap.dedent(piece.strip("\n")).rstrip() for piece in pieces[2::2]]
    return {"": pieces[0].strip(), **dict(zip(pieces[1::2], bodies, strict=True))}


def _argument_texts(section: str) -> dict[str, str]:
    entries = re.findall(r"^(\w+):[ ]*(.*(?:\n[ ]+.*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _form(option: Option) -> str:
    """Return how an option is written: `-n, --max-new-tokens N`, `--[no-]stream`, `MODEL`."""
    if option.positional:
        return option.label
    letter = f"-{option.letter}, " if option.letter else ""
    if option.type is bool:
        return f"{letter}--[no-]{option.flag[2:]}"
    return f"{letter}{option.flag} {'|'.join(option.choices) if option.choices else _METAVARS[option.type]}"


def _format_option(option: Option, text: str) -> str:
    notes = []
    if option.repeatable:
        notes.append("may be repeated")
    if option.required:
        notes.append("required")
    elif option.default is not None:  # the docstring says what None means
        notes.append(f"default: {_shown(option.default)}")
    return _format_entry(_form(option), f"{text} ({', '.join(notes)})" if notes else text)


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return "none" if default == () else str(default)


def _format_entry(left: str, text: str) -> str:
    lines = textwrap.wrap(text, WIDTH - _HELP_COLUMN, break_on_hyphens=False)
    indented = textwrap.indent("\n".join(lines), " " * _HELP_COLUMN)
    head = f"  {left}"
    if len(head) > _HELP_COLUMN - 2:
        return f"{head}\n{indented}"
    return head + indented[len(head) :]


def _fill(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_on_hyphens=False, break_long_words=False)
