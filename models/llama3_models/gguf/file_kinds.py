"""Says what a path is when it is not a GGUF, and what to do about it.

Most first tries fail this way: a misspelled name, a folder, a web page saved in the model's place, a download that has
not finished, one piece of several. Each function returns the part of an error message that follows the path.
"""

from __future__ import annotations

import difflib
import re
import shlex
from pathlib import Path
from typing import Final

from llama3_models.exports import GRAPH, MANIFEST, WEIGHTS
from llama3_models.gguf.contents import described
from llama3_models.gguf.split_name import SPLIT_NAME
from llama3_models.regular_files import is_folder, is_link

MAGIC: Final = b"GGUF"
"""The first bytes of every GGUF."""

# A file that was cut in bytes: x.gguf.part1of2, x.gguf-split-a, x.gguf.part-aa, x.gguf.00, and split's own x.gguf.aa.
_PIECE: Final = re.compile(
    r"(?P<whole>.+\.gguf)[.-](?:(?:split|part)[.-]?(?:\d{1,3}|[a-z]{1,2})|\d{2,3}|a[a-z]|"
    r"(?:part)?\d{1,3}[-_]?of[-_]?(?P<count>\d{1,3}))",
    re.IGNORECASE,
)

# What programs call a file while they download it.
_UNFINISHED: Final = re.compile(
    r".*(\.part|\.partial|\.crdownload|\.opdownload|\.download|\.incomplete|\.filepart|-partial)", re.IGNORECASE
)
_ARIA2: Final = ".aria2"


def not_a_file(path: Path) -> str:
    """What to say of a path that is a folder, a pipe or a device."""
    if not path.is_dir():
        return "not a regular file; give the path of a .gguf file"
    if (advice := unfinished(path)) is not None:
        return advice
    inside = sorted(path.glob("*.gguf"), key=lambda file: (file.name.startswith("mmproj"), file))
    if inside:
        return f"a folder; give one of the files in it, such as {inside[0]}"
    if (path / MANIFEST).exists() or (path / GRAPH).exists():
        return "an export, not a GGUF; llama3-run and llama3-inspect take it, and llama3-export the GGUF it was made of"
    if any(path.glob("*.safetensors")) or any(path.glob("pytorch_model*.bin")):
        return (
            "a folder with a model in another form; convert it with llama.cpp's convert_hf_to_gguf.py, or download a "
            "GGUF of it"
        )
    return "a folder, and there is no .gguf file in it"


def nothing_there(path: Path) -> str:
    """What to say of a path where there is no file; names that are nearly the same come first."""
    if is_link(path):
        return f"a link to {path.readlink()}, where there is no file; download the model again"
    if not is_folder(path.parent):
        return f"no such file, and no folder {path.parent} either"
    names = [file.name for file in path.parent.glob("*.gguf")]
    if (split := SPLIT_NAME.fullmatch(path.name)) is not None:
        others = (SPLIT_NAME.fullmatch(name) for name in names)
        if found := sum(
            other is not None and other.group("stem", "count") == split.group("stem", "count") for other in others
        ):
            return (
                f"no such file; of the {int(split['count'])} parts of this model {found} {_are(found)} in the folder: "
                "download the others into it"
            )
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if not near:
        return "no such file"
    return f"no such file; there {_are(len(near))} {_listed(near)} in that folder"


def not_a_gguf(path: Path, head: bytes) -> str:
    """What a file is, by its name and its first bytes, if it is not a GGUF, and what to do about it."""
    if path.suffix.lower() == _ARIA2:
        return f"aria2's notes on a download that has not finished; continue it with aria2c, then give {path.stem}"
    if (advice := unfinished(path)) is not None:
        return advice
    if re.fullmatch(rf"{re.escape(WEIGHTS)}(_\d+)?", path.name):
        return "the weights of an export, not a GGUF; give the folder to llama3-run or llama3-inspect"
    if len(head) and len(head) < len(MAGIC) and MAGIC.startswith(head):
        return f"cut short after {len(head)} bytes; if it is being downloaded, wait for the end, else download it again"
    if head and not head.strip(b"\0"):
        return "it begins with zeros, as a download does that reserved its space and has not come far; wait for its end"
    return described(head)


def unfinished(path: Path) -> str | None:
    """What the name of a file that is not whole says: that it is one piece of several, or still being downloaded."""
    if (piece := _PIECE.fullmatch(path.name)) is not None:
        return _one_piece(path, piece["whole"], piece["count"])
    if (mark := _UNFINISHED.fullmatch(path.name)) is not None:
        return f"a download that has not finished ({mark[1]}); wait for its end, or start it again"
    if path.with_name(path.name + _ARIA2).exists():
        return f"a download that has not finished: {path.name}{_ARIA2} is there; continue it with aria2c"
    return None


def _one_piece(path: Path, whole: str, count: str | None) -> str:
    what = "one piece of a file that was cut into several"
    if path.with_name(whole).is_file():
        return f"{what}; give {whole}, which is in the same folder"
    pieces = [
        file.name
        for file in path.parent.glob("*")
        if (match := _PIECE.fullmatch(file.name)) is not None and match.group("whole", "count") == (whole, count)
    ]
    pieces.sort(key=lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)])
    first, *others = [shlex.quote(name) for name in pieces] or [shlex.quote(path.name)]
    more = ["..."] if len(others) > 1 else []
    join = f"`cat {' '.join([first, *others[:1], *more])} > {shlex.quote(whole)}`"
    if len(pieces) < int(count or 2):
        every = "all" if count is None else f"all {int(count)}"
        return f"{what}; download {every} into one folder, and join them in order with cat"
    return f"{what}; join them all in order: {join}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
