"""Whether the weights that a graph reads are those that it was made with: the GGUF of a native one, or its own."""

from __future__ import annotations

from pathlib import Path

from llama3_models.digests import fingerprint
from llama3_models.errors import Llama3Error
from llama3_models.manifest import Manifest


def check_weights(manifest: Manifest, folder: Path) -> None:
    """Compare the files that a graph reads with those that it was made with.

    Raises:
        Llama3Error: one is gone, cut short, or has other content.
    """
    for part in (*manifest.source.parts, *manifest.weights):
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
            if part in manifest.weights:
                raise Llama3Error(f"{path}: not the weights of this graph; put its own back, or export the GGUF again")
            raise Llama3Error(f"{path}: changed since this graph was made of it; export it again")
