"""The examples of docs/apps, run in the hosts' own environment, without our packages.

`make test-hosts` creates that environment; LLAMA3_HOSTS_PYTHON names the Python of another one. If a host is not
installed, its tests are skipped with its name.
"""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGES = ROOT / "docs" / "apps"
PYTHON = Path(os.environ.get("LLAMA3_HOSTS_PYTHON", ROOT / ".venv-hosts" / "bin" / "python"))


def require(module: str) -> None:
    """Skip the tests of a host if its module is not installed."""
    if not _has(module):
        pytest.skip(f"{module} is not installed in {PYTHON}; run make test-hosts", allow_module_level=True)


@cache
def _has(module: str) -> bool:
    if not PYTHON.is_file():
        return False
    find = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([PYTHON, "-c", find], check=False).returncode == 0


def example(page: str, title: str, language: str = "python") -> str:
    """Return the block of code under a heading of a page."""
    parts = re.split(r"^##? (.*)$", (PAGES / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    (code,) = re.findall(rf"^```{language}\n(.*?)^```$", sections[title], flags=re.MULTILINE | re.DOTALL)
    return str(code)


def run(program: str, *arguments: str | Path, stdin: str = "") -> str:
    """Run a Python program in the hosts' environment; return its standard output."""
    return run_command(PYTHON, "-c", program, *arguments, stdin=stdin)


def run_command(*command: str | Path, stdin: str = "") -> str:
    """Run a command without the variables that would lead it to our packages; return its standard output."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"}
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
