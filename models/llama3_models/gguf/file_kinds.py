"""Descriptions of paths that are not GGUFs, with what to do about each.

Most first attempts fail here: a misspelled name, a folder, a web page saved instead of the model, an unfinished
download, one piece of several. Each function returns the part of an error message that follows the path.
"""

from __future__ import annotations

import difflib
import re
import shlex
from pathlib import Path
from typing import Final

from llama3_models.exports import MANIFEST, WEB_WEIGHTS, WEIGHTS, graph_in
from llama3_models.gguf.contents import described
from llama3_models.gguf.split_name import SPLIT_NAME
from llama3_models.regular_files import is_folder, is_link

MAGIC: Final = b"GGUF"
"""The first bytes of every GGUF."""

# A piece of a file: x.gguf.part1of2, x.gguf-split-a, x.gguf.part-aa, x.gguf.00, and split's own x.gguf.aa.
_PIECE: Final = re.compile(
    r"(?P<whole>.+\.gguf)[.-](?:(?:split|part)[.-]?(?:\d{1,3}|[a-z]{1,2})|\d{2,3}|a[a-z]|"
    r"(?:part)?\d{1,3}[-_]?of[-_]?(?P<count>\d{1,3}))",
    re.IGNORECASE,
)

# Names that programs give a file while they download it.
_UNFINISHED: Final = re.compile(
    r".*(\.part|\.partial|\.crdownload|\.opdownload|\.download|\.incomplete|\.filepart|-partial)", re.IGNORECASE
)
_ARIA2: Final = ".aria2"


def not_a_file(path: Path) -> str:
    """Describe a path that is a folder, a pipe or a device."""
    if not path.is_dir():
        return "not a regular file; use a .gguf file"
    if (advice := unfinished(path)) is not None:
        return advice
    inside = sorted(path.glob("*.gguf"), key=lambda file: (file.name.startswith("mmproj"), file))
    if inside:
        return f"a folder; use one of the files in it, such as {inside[0]}"
    if (path / MANIFEST).exists() or graph_in(path).exists():
        return (
            "an export, not a GGUF; use it with llama3-run or llama3-inspect, or the GGUF it was made from with "
            "llama3-export"
        )
    if any(path.glob("*.safetensors")) or any(path.glob("pytorch_model*.bin")):
        return (
            "a folder with a model in another format; convert it with llama.cpp's convert_hf_to_gguf.py, or download "
            "a GGUF of it"
        )
    return "a folder without .gguf files; use a .gguf file"


def nothing_there(path: Path) -> str:
    """Describe a path where there is no file, and list similar names in its folder."""
    if is_link(path):
        return f"a link to {path.readlink()}, which does not exist; download the model again"
    if not is_folder(path.parent):
        return f"no such file, because there is no folder {path.parent}"
    names = [file.name for file in path.parent.glob("*.gguf")]
    if (split := SPLIT_NAME.fullmatch(path.name)) is not None:
        others = (SPLIT_NAME.fullmatch(name) for name in names)
        if found := sum(
            other is not None and other.group("stem", "count") == split.group("stem", "count") for other in others
        ):
            return (
                f"no such file; {found} of the {int(split['count'])} parts of this model {_are(found)} in the folder: "
                "download the others into it"
            )
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if not near:
        return "no such file"
    return f"no such file; similar names in that folder: {_listed(near)}"


def not_a_gguf(path: Path, head: bytes) -> str:
    """Describe a file that is not a GGUF by its name and its first bytes, and say what to do about it."""
    if path.suffix.lower() == _ARIA2:
        return f"aria2's record of an unfinished download; continue it with aria2c, then use {path.stem}"
    if (advice := unfinished(path)) is not None:
        return advice
    if re.fullmatch(rf"({'|'.join(map(re.escape, (WEIGHTS, *WEB_WEIGHTS.values())))})(_\d+)?", path.name):
        return "the weights of an export, not a GGUF; use the folder with llama3-run or llama3-inspect"
    if len(head) and len(head) < len(MAGIC) and MAGIC.startswith(head):
        return (
            f"truncated after {len(head)} bytes; if it is being downloaded, wait for it to finish, otherwise download "
            "it again"
        )
    if head and not head.strip(b"\0"):
        return "begins with zeros, so it looks like an unfinished download; wait for it to finish"
    return described(head)


def unfinished(path: Path) -> str | None:
    """Describe an incomplete file by its name: it is one piece of several, or still being downloaded."""
    if (piece := _PIECE.fullmatch(path.name)) is not None:
        return _one_piece(path, piece["whole"], piece["count"])
    if (mark := _UNFINISHED.fullmatch(path.name)) is not None:
        return f"an unfinished download ({mark[1]}); wait for it to finish, or start it again"
    if path.with_name(path.name + _ARIA2).exists():
        return f"an unfinished download ({path.name}{_ARIA2} exists); continue it with aria2c"
    return None


def _one_piece(path: Path, whole: str, count: str | None) -> str:
    what = "one of several pieces of a file"
    if path.with_name(whole).is_file():
        return f"{what}; use {whole}, which is in the same folder"
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
        return f"{what}; download {every} into one folder and join them in order with cat"
    return f"{what}; join them all in order: {join}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _listed(names: list[str]) -> str:
    """Join names: `a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
