"""Says what a path is when it is no GGUF, and what to do about it.

Most first tries fail this way: a misspelled name, a folder, a web page saved in the model's place, a Git LFS pointer,
safetensors. Each function returns the part of an error message that follows the path.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Final

MAGIC: Final = b"GGUF"
"""The first bytes of every GGUF."""


def not_a_file(path: Path) -> str:
    """What to say of a path that is a folder, a pipe or a device."""
    if not path.is_dir():
        return "not a regular file; give the path of a .gguf file"
    inside = sorted(path.glob("*.gguf"))
    if not inside:
        return "a folder, and there is no .gguf file in it"
    return f"a folder; give one of the files in it, such as {inside[0]}"


def nothing_there(path: Path) -> str:
    """What to say of a path where there is no file; names that are nearly the same come first."""
    if not path.parent.is_dir():
        return f"no such file, and no folder {path.parent} either"
    names = [file.name for file in path.parent.glob("*.gguf")]
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if not near:
        return "no such file"
    return f"no such file; there is {' and '.join(near)} in that folder"


def not_a_gguf(head: bytes) -> str:
    """What a file is, by its first bytes, if it is no GGUF, and what to do about it."""
    convert = "convert the model with llama.cpp's convert_hf_to_gguf.py, or download a GGUF of it"
    text = head.lstrip().lower()
    if not head:
        return "an empty file; download it again"
    if len(head) < len(MAGIC) and MAGIC.startswith(head):
        return f"cut short after {len(head)} bytes; if it is being downloaded, wait for the end, else download it again"
    if not head.strip(b"\0"):
        return "it begins with zeros, as a download does that reserved its space and has not come far; wait for its end"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the model itself; fetch the model with `git lfs pull`"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page, not a model; on Hugging Face the link of a file says /resolve/, the link of its page /blob/"
    if text.startswith((b"{", b"[")):
        return "JSON, not a model; give the path of a .gguf file"
    if head[:4] in (b"lmgg", b"fmgg", b"tjgg", b"algg"):
        return "a GGML file from before GGUF (2023), which is no longer read; download a GGUF of the model"
    if head[8:10] in (b'{"', b"{ "):
        return f"a safetensors file, not a GGUF; {convert}"
    if head.startswith((b"PK\x03\x04", b"\x80\x02")):
        return f"a PyTorch checkpoint or another archive, not a GGUF; {convert}"
    return "not a GGUF file; give the path of a .gguf file"
