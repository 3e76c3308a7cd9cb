"""Types of tensors that are not read: those that ggml dropped, and numbers that are not known here.

A tensor of such a type does not keep the header from being read, so that the file can be shown, but nothing computes
with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class UnreadType(NamedTuple):
    """A type that is not read.

    Attributes:
        name: What ggml called it, or its number in words.
        block_size: Weights in a block; 1 where it is not known.
        block_bytes: Bytes of a block, None where they are not known.
        why: What is wrong with it and what to do, the end of a message after the name.
    """

    name: str
    block_size: int
    block_bytes: int | None
    why: str


def _repacked(name: str, plain: str) -> UnreadType:
    return UnreadType(
        name,
        32,
        18,
        f"which llama.cpp removed in 2024; get the {plain} file of the model, which holds the same weights",
    )


def _of_2023(name: str, block_bytes: int) -> UnreadType:
    return UnreadType(
        name, 16, block_bytes, "which llama.cpp removed in 2023; get a newer file of the model, such as Q4_0"
    )


# ggml.h keeps their numbers free. The block layouts of the first are Q4_0's and IQ4_NL's, rows interleaved.
_REMOVED: Final[Mapping[int, UnreadType]] = {
    4: _of_2023("Q4_2", 10),
    5: _of_2023("Q4_3", 12),
    31: _repacked("Q4_0_4_4", "Q4_0"),
    32: _repacked("Q4_0_4_8", "Q4_0"),
    33: _repacked("Q4_0_8_8", "Q4_0"),
    36: _repacked("IQ4_NL_4_4", "IQ4_NL"),
    37: _repacked("IQ4_NL_4_8", "IQ4_NL"),
    38: _repacked("IQ4_NL_8_8", "IQ4_NL"),
}


def unread_type(number: int) -> UnreadType:
    """The type of a number that the gguf package does not know."""
    return _REMOVED.get(number) or UnreadType(
        f"number {number}",
        1,
        None,
        "which is not known here; get the model in another encoding such as Q4_K_M, or see whether newer versions of "
        "llama3-onnx and gguf read it",
    )
