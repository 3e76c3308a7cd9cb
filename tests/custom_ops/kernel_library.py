"""The C test library of the matmul kernels, called through ctypes, and random blocks of every format for it.

Blocks are random bytes with sane scales, so every bit of a format is tested. `gguf.quants.dequantize` decodes them in
plain numpy.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize
from llama3_exporter.formats import table
from numpy.typing import NDArray

from tests.support.paths import CUSTOM_OPS

BLOCK_FORMATS = tuple(ggml_type.name.lower() for ggml_type in table.FORMATS)
FLOAT_FORMATS = tuple(ggml_type.name.lower() for ggml_type in table.FLOAT_TYPES)
FORMATS = FLOAT_FORMATS + BLOCK_FORMATS
# The bytes of a block's scales that are not a plain float16.
_OTHER_SCALES = {"mxfp4": range(1), "nvfp4": range(4), "iq1_m": range(48, 56)}


def ggml_type(name: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[name.upper()]


def block_shape(name: str) -> tuple[int, int]:
    """Return the weights and the bytes of a block."""
    if name == "bf16":
        return 1, 2
    weights, size = gguf.GGML_QUANT_SIZES[ggml_type(name)]
    return int(weights), int(size)


@cache
def float16_offsets(name: str) -> tuple[int, ...]:
    """Find a block's float16 scale and minimum: a NaN there makes all its weights NaN."""
    _, block_bytes = block_shape(name)
    blocks = np.zeros((block_bytes - 1, block_bytes), np.uint8)
    for offset, block in enumerate(blocks):
        block[offset : offset + 2] = np.array([np.nan], np.float16).view(np.uint8)
    return tuple(np.flatnonzero(np.isnan(reference_weights(name, blocks)).all(axis=1)).tolist())


def scale_bytes(name: str) -> list[int]:
    """Return the bytes of a block's float16 scale and minimum, or of what replaces them."""
    return [*_OTHER_SCALES.get(name, ()), *(offset + i for offset in float16_offsets(name) for i in range(2))]


def random_weights(name: str, rows: int, cols: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return blocks of random bytes [rows, bytes] with float16 scales around 0.01."""
    block_weights, block_bytes = block_shape(name)
    if name in FLOAT_FORMATS:
        values = (rng.standard_normal((rows, cols)) * 0.05).astype(np.float32)
        if name == "f32":
            return values.view(np.uint8).reshape(rows, -1)
        if name == "f16":
            return values.astype(np.float16).view(np.uint8).reshape(rows, -1)
        return np.ascontiguousarray((values.view(np.uint32) >> 16).astype(np.uint16)).view(np.uint8).reshape(rows, -1)
    blocks = rng.integers(0, 256, (rows * cols // block_weights, block_bytes), dtype=np.uint8)
    scales = rng.uniform(0.005, 0.02, len(blocks)) * rng.choice([-1.0, 1.0], len(blocks))
    for offset in float16_offsets(name):
        blocks[:, offset : offset + 2] = scales.astype(np.float16).view(np.uint8).reshape(-1, 2)
    if name == "mxfp4":
        blocks[:, 0] = rng.integers(115, 122, len(blocks))
    if name == "nvfp4":
        blocks[:, :4] = rng.integers(0, 60, (len(blocks), 4))
    if name == "iq1_m":  # a float16 in the top nibbles of four words
        words = blocks[:, 48:56].copy().view(np.uint16)
        bits = np.abs(scales).astype(np.float16).view(np.uint16)
        for i in range(4):
            words[:, i] = (words[:, i] & 0x0FFF) | (((bits >> (4 * i)) & 15) << 12)
        blocks[:, 48:56] = words.view(np.uint8)
    return blocks.reshape(rows, -1)


def reference_weights(name: str, data: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Decode the bytes with gguf's own numpy code."""
    if name == "bf16":
        return np.asarray((data.view(np.uint16).astype(np.uint32) << 16).view(np.float32))
    with np.errstate(all="ignore"):
        return np.asarray(dequantize(data, ggml_type(name)), dtype=np.float32)


@dataclass
class KernelLibrary:
    """The test library, with arrays as inputs and results."""

    library: ctypes.CDLL

    def has(self, instruction_set: str) -> bool:
        return bool(self.library.has_instruction_set(instruction_set.encode()))

    def multiply(
        self,
        instruction_set: str,
        A: NDArray[np.float32],
        weights: Sequence[tuple[str, NDArray[np.uint8]]],
        *,
        biases: Sequence[NDArray[np.float32] | None] = (),
        float32: bool = False,
        threads: int = 1,
    ) -> list[NDArray[np.float32]]:
        """Multiply A [M, K] by each weight (format, bytes [N, ...]): [M, N]."""
        M, K = A.shape
        A = np.ascontiguousarray(A)
        data = [np.ascontiguousarray(w) for _, w in weights]
        outputs = [np.empty((M, len(w)), np.float32) for w in data]
        count = len(weights)
        bias_pointers = [None if b is None else b.ctypes.data for b in biases] or [None] * count
        status = self.library.multiply(
            instruction_set.encode(),
            int(float32),
            ctypes.c_int64(threads),
            ctypes.c_int64(K),
            ctypes.c_int64(M),
            ctypes.c_void_p(A.ctypes.data),
            count,
            (ctypes.c_char_p * count)(*(name.encode() for name, _ in weights)),
            (ctypes.c_int64 * count)(*(len(w) for w in data)),
            (ctypes.c_void_p * count)(*(w.ctypes.data for w in data)),
            (ctypes.c_void_p * count)(*bias_pointers),
            (ctypes.c_void_p * count)(*(y.ctypes.data for y in outputs)),
        )
        assert status == 0
        return outputs

    def dequantize(self, instruction_set: str, name: str, row: NDArray[np.uint8], count: int) -> NDArray[np.float32]:
        out = np.empty(count, np.float32)
        row = np.ascontiguousarray(row)
        status = self.library.dequantize(
            instruction_set.encode(),
            name.encode(),
            ctypes.c_int64(count),
            ctypes.c_void_p(row.ctypes.data),
            ctypes.c_void_p(out.ctypes.data),
        )
        assert status == 0
        return out


def load_kernel_library(build_folder: Path) -> KernelLibrary:
    """Build the library, or load the one that LLAMA3_KERNEL_TEST_LIBRARY names."""
    built = os.environ.get("LLAMA3_KERNEL_TEST_LIBRARY")
    if not built:
        if not (shutil.which("cmake") and shutil.which("c++")):
            pytest.skip("no C++ compiler")
        options = ["-DCMAKE_BUILD_TYPE=Release", "-DLLAMA3_CUSTOM_OPS_TESTS=ON", "-DLLAMA3_CUSTOM_OPS_WERROR=ON"]
        subprocess.run(["cmake", "-S", CUSTOM_OPS, "-B", build_folder, *options], check=True, capture_output=True)
        build = ["cmake", "--build", build_folder, "--target", "llama3_matmul_test", "-j2"]
        subprocess.run(build, check=True, capture_output=True)
        built = str(next(build_folder.rglob("libllama3_matmul_test.so")))
    return KernelLibrary(ctypes.CDLL(built))
