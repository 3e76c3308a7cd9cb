"""The programs in custom_ops/tests that compare every kernel with the scalar one on random calls."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import CUSTOM_OPS

PROGRAMS = ("llama3_attention_sanitize", "llama3_matmul_sanitize")


def build_kernel_programs(folder: Path, *options: str) -> Path:
    """Build PROGRAMS in a folder with extra CMake options and return it. Skip the test if there is no compiler."""
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
    """Return the output of a command, which must succeed."""
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]
    return result.stdout
