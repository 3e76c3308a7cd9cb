"""Our own library of ops, where the package was installed with a C++ compiler at hand."""

from __future__ import annotations

from pathlib import Path

import llama3_custom_ops
from llama3_models.errors import Llama3Error


def library() -> Path | None:
    """The built library, or None."""
    try:
        return llama3_custom_ops.library_path()
    except Llama3Error:
        return None
