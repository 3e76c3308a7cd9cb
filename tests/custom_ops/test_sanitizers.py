"""gcc's sanitizers find no out-of-bounds access, undefined behavior or data race in the threaded kernels."""

from pathlib import Path

import pytest

from tests.custom_ops.kernel_library import FORMATS
from tests.custom_ops.kernel_programs import build_kernel_programs, run


@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_kernels_are_clean(tmp_path: Path, sanitizers: str) -> None:
    """Every format, kind of activations and cache type runs in a program that ends at the first report."""
    folder = build_kernel_programs(tmp_path, f"-DLLAMA3_CUSTOM_OPS_SANITIZE={sanitizers}")
    calls = str(3 * len(FORMATS))
    assert run([str(folder / "llama3_matmul_sanitize"), calls]) == f"{calls} calls\n"
    assert run([str(folder / "llama3_attention_sanitize"), "10"]) == "10 calls\n"
