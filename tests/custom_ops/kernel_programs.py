"""Builds the programs of custom_ops/tests that hold every kernel against the scalar one on random calls."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import CUSTOM_OPS

PROGRAMS = ("llama3_attention_sanitize", "llama3_matmul_sanitize")


def build_kernel_programs(folder: Path, *options: str) -> Path:
    """Builds PROGRAMS in a folder, with more options for CMake, and returns it. Skips the test without a compiler."""
    if not (shutil.which("cmake") and shutil.which("c++")):
        pytest.skip("no C++ compiler")
    settings = [
        "-DLLAMA3_CUSTOM_OPS_TESTS=ON",
        "-DLLAMA3_CUSTOM_OPS_WERROR=ON",
        "-DCMAKE_CXX_FLAGS_RELEASE=-O1",
        *options,
    ]
    run(["cmake", "-S", str(CUSTOM_OPS), "-B", str(folder), *settings])
    run(["cmake", "--build", str(folder), "-j2", "--target", *PROGRAMS])
    return folder


def run(command: list[str]) -> str:
    """What a command prints, which must succeed."""
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]
    return result.stdout
