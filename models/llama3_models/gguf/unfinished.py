"""Detection of unfinished downloads whose files already have their full size: the missing bytes are zeros.

A single matrix of zeros is not a sign: pruned and freshly extended models have some. The signs are zeros up to the end
of the file, and adjacent tensors that are all zeros: between two matrices that may be zero, a complete model has
matrices and norms that are not.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile, GGUFTensor
from llama3_models.gguf.part import quoted

# Many of these may be zero in a complete model.
_MAY_BE_ZERO = (".bias", ".scale", ".input_scale")

# The end of the last tensor. A model with a padded vocabulary may end in rows of zeros, but in fewer bytes.
_TAIL_BYTES = 4 << 20

# Nearly all tensors have a nonzero byte in this many, so reading stops there.
_FIRST_BYTES = 4096
_NEXT_BYTES = 1 << 20


def refuse_unfinished(file: GGUFFile) -> None:
    """Refuse a file whose download is unfinished.

    Raises:
        Llama3Error: zeros are in places where a complete file has weights.
    """
    by_part: dict[Path, list[GGUFTensor]] = {}
    for tensor in sorted(file.tensors.values(), key=lambda tensor: tensor.offset):
        if tensor.name.endswith(_MAY_BE_ZERO):
            continue
        by_part.setdefault(tensor.part, []).append(tensor)
    for part, tensors in by_part.items():
        last = tensors[-1]
        if _is_blank(last.data.reshape(-1)[-_TAIL_BYTES:]):
            raise _unfinished(part, f"only zero bytes from tensor {quoted(last.name)} to the end of the file")
        blank = [_is_blank(tensor.data.reshape(-1)) for tensor in tensors]
        for (one, is_blank), (other, is_next_blank) in pairwise(zip(tensors, blank, strict=True)):
            if is_blank and is_next_blank:
                raise _unfinished(part, f"only zero bytes in tensors {quoted(one.name)} and {quoted(other.name)}")


def _is_blank(data: npt.NDArray[np.uint8]) -> bool:
    """Return whether all [n] bytes are zero."""
    start, step = 0, _FIRST_BYTES
    while start < data.size:
        if data[start : start + step].any():
            return False
        start, step = start + step, _NEXT_BYTES
    return True


def _unfinished(part: Path, what: str) -> Llama3Error:
    return Llama3Error(
        f"{part}: {what}, so it looks like an unfinished download; wait for it to finish, or download it again"
    )
