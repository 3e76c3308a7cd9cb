"""Notices a download that reserved its file's whole size and has not come to the end: what has not come is zeros.

One matrix of zeros is no sign of it: pruned and freshly extended models have some. The signs are zeros up to the end of
the file, and tensors that lie side by side and are all blank, since between two matrices that may be zero a model has
others, and norms, that cannot.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile, GGUFTensor
from llama3_models.gguf.part import quoted

# A model may well have many of these that are zero.
_MAY_BE_ZERO = (".bias", ".scale", ".input_scale")

# Of the last tensor. Models whose vocabulary was padded to a round number end in rows of zeros, but in fewer.
_TAIL_BYTES = 4 << 20

# Nearly all tensors have something else than zeros in so many bytes, so that reading goes no further.
_FIRST_BYTES = 4096
_NEXT_BYTES = 1 << 20


def refuse_unfinished(file: GGUFFile) -> None:
    """Refuse a file that has not been downloaded to its end.

    Raises:
        Llama3Error: zeros stand where a part of the file has not come yet.
    """
    by_part: dict[Path, list[GGUFTensor]] = {}
    for tensor in sorted(file.tensors.values(), key=lambda tensor: tensor.offset):
        if tensor.name.endswith(_MAY_BE_ZERO):
            continue
        by_part.setdefault(tensor.part, []).append(tensor)
    for part, tensors in by_part.items():
        last = tensors[-1]
        if _is_blank(last.data.reshape(-1)[-_TAIL_BYTES:]):
            raise _unfinished(part, f"from tensor {quoted(last.name)} to the end of the file there are only zero bytes")
        blank = [_is_blank(tensor.data.reshape(-1)) for tensor in tensors]
        for (one, is_blank), (other, is_next_blank) in pairwise(zip(tensors, blank, strict=True)):
            if is_blank and is_next_blank:
                raise _unfinished(part, f"tensors {quoted(one.name)} and {quoted(other.name)} hold only zero bytes")


def _is_blank(data: npt.NDArray[np.uint8]) -> bool:
    """Whether all of [n] bytes are zero."""
    start, step = 0, _FIRST_BYTES
    while start < data.size:
        if data[start : start + step].any():
            return False
        start, step = start + step, _NEXT_BYTES
    return True


def _unfinished(part: Path, what: str) -> Llama3Error:
    return Llama3Error(
        f"{part}: {what}, as in a file whose download goes on or broke off; wait for its end, or download it again"
    )
