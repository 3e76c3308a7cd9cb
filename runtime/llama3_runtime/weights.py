"""A check that a graph reads the weights that it was exported with: the GGUF of a native graph, or its own files."""

from __future__ import annotations

from pathlib import Path

from llama3_models.digests import fingerprint
from llama3_models.errors import Llama3Error
from llama3_models.manifest import Manifest


def check_weights(manifest: Manifest, folder: Path) -> None:
    """Check that a graph reads the weights that it was exported with.

    Raises:
        Llama3Error: a file is missing, truncated, or has other content.
    """
    for part in (*manifest.source.parts, *manifest.weights):
        if part.fingerprint is None:
            continue
        path = folder / part.name
        if not path.is_file():
            raise Llama3Error(f"{path}: the weights of this graph are missing; put them back, or export the GGUF again")
        size = path.stat().st_size
        if part.size is not None and size < part.size:
            raise Llama3Error(
                f"{path}: has {size:,} of {part.size:,} bytes; wait until it is copied, or export the GGUF again"
            )
        if fingerprint(path) != part.fingerprint:
            if part in manifest.weights:
                raise Llama3Error(f"{path}: not the weights of this graph; put its own back, or export the GGUF again")
            raise Llama3Error(f"{path}: has changed since the export; export the GGUF again")
