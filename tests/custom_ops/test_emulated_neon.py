"""The NEON kernels compared with the scalar ones on an emulated aarch64, by the sanitizer tests' programs."""

import shutil
from pathlib import Path

import pytest

from tests.custom_ops.kernel_library import FORMATS
from tests.custom_ops.kernel_programs import build_kernel_programs, run

COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = "qemu-aarch64"
CROSS_BUILD = (
    "-DCMAKE_SYSTEM_NAME=Linux",
    "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
    f"-DCMAKE_CXX_COMPILER={COMPILER}",
    "-DCMAKE_EXE_LINKER_FLAGS=-static",
)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the programs for aarch64 and return their folder."""
    if not (shutil.which(COMPILER) and shutil.which(EMULATOR)):
        pytest.skip("no cross compiler or no emulator for aarch64")
    return build_kernel_programs(tmp_path_factory.mktemp("aarch64"), *CROSS_BUILD)


def test_matmul_equals_scalar(programs: Path) -> None:
    """Every format with every kind of activations agrees to 1e-6 of the sum of the magnitudes."""
    calls = str(6 * len(FORMATS))
    assert run([EMULATOR, str(programs / "llama3_matmul_sanitize"), calls]) == f"{calls} calls\n"


def test_attention_equals_scalar(programs: Path) -> None:
    """The outputs agree to 1e-6 of their norm."""
    assert run([EMULATOR, str(programs / "llama3_attention_sanitize"), "10"]) == "10 calls\n"


def test_a_processor_without_dot_products_takes_portable_kernels(programs: Path) -> None:
    """A Cortex-A53 never runs an instruction that it lacks."""
    calls = str(len(FORMATS))
    command = [EMULATOR, "-cpu", "cortex-a53", str(programs / "llama3_matmul_sanitize"), calls]
    assert run(command) == f"{calls} calls\n"
