"""No wrong graph crashes the process. LLAMA3_FUZZ_SECONDS (default: 4) sets how long to try."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.custom_ops.op_sessions import needs_library


def test_no_graph_crashes_the_process(tmp_path: Path) -> None:
    """Valid graphs run, wrong graphs are refused, and the process survives."""
    needs_library()
    seconds = os.environ.get("LLAMA3_FUZZ_SECONDS", "4")
    first_case = os.environ.get("LLAMA3_FUZZ_FIRST_CASE", "0")
    case_file = tmp_path / "case"
    command = [sys.executable, "-m", "tests.custom_ops.fuzz.fuzz_ops", seconds, first_case, str(case_file)]
    fuzzer = subprocess.run(command, capture_output=True, text=True)
    case = case_file.read_text().split()[0] if case_file.exists() else "none"
    assert fuzzer.returncode == 0, f"case {case} ended the process ({fuzzer.returncode}): {fuzzer.stderr[-4000:]}"
    counts = re.fullmatch(r"(\d+) ran, (\d+) were refused\n", fuzzer.stdout)
    assert counts is not None
    assert int(counts[1]) > 0
    assert int(counts[2]) > 0
