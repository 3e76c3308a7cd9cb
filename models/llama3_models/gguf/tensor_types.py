"""Unsupported tensor types: those that ggml removed, and unknown numbers.

A file with such a tensor can be opened and shown, but nothing computes with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class UnreadType(NamedTuple):
    """An unsupported type.

    Attributes:
        name: Its former name in ggml, or its number in words.
        block_size: Weights per block; 1 if unknown.
        block_bytes: Bytes per block; None if unknown.
        why: What is wrong with it and what to do: the end of a message, after the name.
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
        f"which llama.cpp removed in 2024; download the model's {plain} file, which has the same weights",
    )


def _of_2023(name: str, block_bytes: int) -> UnreadType:
    return UnreadType(
        name, 16, block_bytes, "which llama.cpp removed in 2023; download a newer file of the model, such as Q4_0"
    )


# ggml.h no longer uses their numbers. Those of 2024 have the blocks of Q4_0 and IQ4_NL, with rows interleaved.
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
    """Return the type for a number that the gguf package does not know."""
    return _REMOVED.get(number) or UnreadType(
        f"number {number}",
        1,
        None,
        "which is unknown; download the model in another encoding, such as Q4_K_M, or try newer versions of "
        "llama3-onnx and gguf",
    )
