"""The compiled library of the `llama3` ops, and its registration with ONNX Runtime.

Installing the package builds the library if there is a C++ compiler. Without the library, everything except native
graphs works. Any application can load it with `SessionOptions.register_custom_ops_library(str(library_path()))`.
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
"""The environment variable that selects another library."""

_ELF_HEADER = struct.Struct("<4s36xQ10xHH2x")  # from <elf.h>: magic; offset, size and number of section headers


def library_path() -> Path:
    """Return the library in this package, or the one that the environment variable LLAMA3_CUSTOM_OPS names.

    Raises:
        Llama3Error: The library was not built, or the variable does not name a library.
    """
    path = built_library()
    if path is None:
        raise Llama3Error(
            f"{LIBRARY} was not built because there was no C++20 compiler or CMake; install both and reinstall "
            f"llama3-onnx, or export with --ops contrib"
        )
    return path


def built_library() -> Path | None:
    """Return the same path as `library_path`, or None if the library was not built.

    Raises:
        Llama3Error: The variable does not name a library.
    """
    override = os.environ.get(OVERRIDE)
    if override:
        path = Path(override)
        if not path.is_file():
            raise Llama3Error(f"{OVERRIDE}={override}: no such file; unset it to use the installed library")
        check_library(path)
        return path.resolve()
    for folder in __path__:  # an editable installation keeps builds and sources in different folders
        path = Path(folder, LIBRARY)
        if path.is_file():
            return path.resolve()
    return None


def check_library(path: Path) -> None:
    """Check that a file is a complete library, because loading a truncated one would end the process.

    Raises:
        Llama3Error: The file is not a library or is truncated.
    """
    with path.open("rb") as file:
        header = file.read(_ELF_HEADER.size)
    if len(header) < _ELF_HEADER.size or not header.startswith(b"\x7fELF"):
        raise Llama3Error(f"{path}: not a Linux library; use one that was built for Linux")
    _, offset, size, count = _ELF_HEADER.unpack(header)
    if path.stat().st_size < offset + size * count:
        raise Llama3Error(f"{path}: truncated; copy or build this library again")


def register(session_options: Any) -> None:
    """Add the ops to an `onnxruntime.SessionOptions`, which may already have them.

    Raises:
        Llama3Error: The library was not built.
    """
    session_options.register_custom_ops_library(str(library_path()))
