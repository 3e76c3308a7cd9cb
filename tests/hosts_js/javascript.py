"""JavaScript in Node, with the packages of package-lock.json, which `make test-hosts-js` installs.

If Node, a package or Chromium is missing, a test is skipped with its name.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
PACKAGES = FOLDER / "node_modules"


def require_node(*packages: str) -> None:
    """Skip a module's tests if Node or one of these packages is not installed."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed", allow_module_level=True)
    for package in packages:
        if not (PACKAGES / package).is_dir():
            pytest.skip(f"{package} is not installed; run make test-hosts-js", allow_module_level=True)


def require_chromium() -> str:
    """Return the path of Chromium, or skip a module's tests if it is not installed."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if (path := shutil.which(name)) is not None:
            return path
    pytest.skip("chromium is not installed", allow_module_level=True)


def run_node(
    script: Path, *arguments: str | int | Path, stdin: str = "", timeout: float = 300, cwd: Path | None = None
) -> str:
    """Run a script; return its standard output."""
    done = subprocess.run(
        ["node", script, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
