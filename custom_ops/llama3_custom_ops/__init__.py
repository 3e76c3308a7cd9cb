"""Finds the built library of the `llama3` ops, and registers it with ONNX Runtime.

The library is built where the package is installed with a C++ compiler at hand; without one everything but native
graphs works. Any application may load it with `SessionOptions.register_custom_ops_library(str(library_path()))`.
"""

import os
from pathlib import Path
from typing import Any

from llama3_models.errors import Llama3Error

__all__ = ["LIBRARY", "library_path", "register"]

LIBRARY = "libllama3_custom_ops.so"
"""The library's file name."""
_OVERRIDE = "LLAMA3_CUSTOM_OPS"


def library_path() -> Path:
    """The library beside this package, or the one that the environment variable LLAMA3_CUSTOM_OPS names.

    Raises:
        Llama3Error: There is none.
    """
    override = os.environ.get(_OVERRIDE)
    if override:
        path = Path(override)
        if path.is_file():
            return path.resolve()
        raise Llama3Error(f"{_OVERRIDE}={override}: no such file; unset it to use the library of the installation")
    for folder in __path__:  # an editable installation keeps what it built in another folder than the sources
        path = Path(folder, LIBRARY)
        if path.is_file():
            return path.resolve()
    raise Llama3Error(
        f"{LIBRARY} was not built, for want of a C++20 compiler or CMake: install both and then llama3-onnx again, "
        f"or export with --ops contrib"
    )


def register(session_options: Any) -> None:
    """Add the ops to an `onnxruntime.SessionOptions`; doing so twice is no error.

    Raises:
        Llama3Error: The library was not built.
    """
    session_options.register_custom_ops_library(str(library_path()))
