"""Detection of changed files: by SHA-256, or in a millisecond by a fingerprint of samples."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llama3_models.errors import Llama3Error

_BLOCK = 1 << 20
_SAMPLES = 64
_SAMPLE_BYTES = 4096


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal digits.

    Raises:
        Llama3Error: the file cannot be read.
    """
    digest = hashlib.sha256()
    with _reading(path), path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(file: Path | int) -> str:
    """Return a SHA-256 of a file's size, its first and last bytes, and evenly spaced samples between them.

    For another model, another quantization or a half-written file, nearly all of these differ. A change of a few bytes
    in the middle is not noticed.

    Args:
        file: Its path, or its descriptor, which stays open.

    Raises:
        Llama3Error: the file cannot be read.
    """
    with _reading(file), open(file, "rb", closefd=not isinstance(file, int)) as stream:
        size = os.fstat(stream.fileno()).st_size
        digest = hashlib.sha256(str(size).encode())
        last = max(0, size - _SAMPLE_BYTES)
        for i in range(_SAMPLES + 1):
            stream.seek(last * i // _SAMPLES)
            digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


@contextmanager
def _reading(file: Path | int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        path = Path(f"/proc/self/fd/{file}").readlink() if isinstance(file, int) else file
        raise Llama3Error(f"{path}: cannot be read ({error.strerror or error})") from error
