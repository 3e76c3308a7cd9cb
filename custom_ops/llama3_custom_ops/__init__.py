"""Finds the built library of the `llama3` ops, and registers it with ONNX Runtime.

The library is built where the package is installed with a C++ compiler at hand; without one everything but native
graphs works. Any application may load it with `SessionOptions.register_custom_ops_library(str(library_path()))`.
"""

import os
import struct
from pathlib import Path
from typing import Any

from llama3_models.errors import Llama3Error

__all__ = ["LIBRARY", "OVERRIDE", "built_library", "check_library", "library_path", "register"]

LIBRARY = "libllama3_custom_ops.so"
"""The library's file name."""
OVERRIDE = "LLAMA3_CUSTOM_OPS"
"""The environment variable that names another library."""

_ELF_HEADER = struct.Struct("<4s36xQ10xHH2x")  # of <elf.h>: magic, offset, size and number of section headers


def library_path() -> Path:
    """The library beside this package, or the one that the environment variable LLAMA3_CUSTOM_OPS names.

    Raises:
        Llama3Error: There is none, or the variable names what is no library.
    """
    path = built_library()
    if path is None:
        raise Llama3Error(
            f"{LIBRARY} was not built, for want of a C++20 compiler or CMake: install both and then llama3-onnx again, "
            f"or export with --ops contrib"
        )
    return path


def built_library() -> Path | None:
    """The same, but None where there is none.

    Raises:
        Llama3Error: The variable names what is no library.
    """
    override = os.environ.get(OVERRIDE)
    if override:
        path = Path(override)
        if not path.is_file():
            raise Llama3Error(f"{OVERRIDE}={override}: no such file; unset it to use the library of the installation")
        check_library(path)
        return path.resolve()
    for folder in __path__:  # an editable installation keeps what it built in another folder than the sources
        path = Path(folder, LIBRARY)
        if path.is_file():
            return path.resolve()
    return None


def check_library(path: Path) -> None:
    """Tell a library from other files and from one that is cut short, which would end the process when it is loaded.

    Raises:
        Llama3Error: It is none.
    """
    with path.open("rb") as file:
        header = file.read(_ELF_HEADER.size)
    if len(header) < _ELF_HEADER.size or not header.startswith(b"\x7fELF"):
        raise Llama3Error(f"{path}: no library for Linux; give one that was built for it")
    _, offset, size, count = _ELF_HEADER.unpack(header)
    if path.stat().st_size < offset + size * count:
        raise Llama3Error(f"{path}: cut short; copy or build this library again")


def register(session_options: Any) -> None:
    """Add the ops to an `onnxruntime.SessionOptions`; doing so twice is no error.

    Raises:
        Llama3Error: The library was not built.
    """
    session_options.register_custom_ops_library(str(library_path()))
