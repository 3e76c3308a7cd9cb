"""Whether the GGUF that a native graph reads is still the one that it was made for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from llama3_models.digests import fingerprint
from llama3_models.errors import Llama3Error
from llama3_models.manifest import Part


def check_weights(parts: Iterable[Part], folder: Path) -> None:
    """Compare the files of a GGUF with those that a graph was made for; only native graphs read them.

    Raises:
        Llama3Error: one is gone, cut short, or its content has changed.
    """
    for part in parts:
        if part.fingerprint is None:
            continue
        path = folder / part.name
        if not path.is_file():
            raise Llama3Error(f"{path}: the weights of this graph are gone; put them back, or export the GGUF again")
        size = path.stat().st_size
        if part.size is not None and size < part.size:
            raise Llama3Error(
                f"{path}: has {size:,} of {part.size:,} bytes; wait until it is copied, or export the GGUF again"
            )
        if fingerprint(path) != part.fingerprint:
            raise Llama3Error(f"{path}: changed since this graph was made of it; export it again")
