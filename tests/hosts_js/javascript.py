"""Runs JavaScript in Node, with the packages of package-lock.json, which `make test-hosts-js` installs.

A test is skipped with the name of what is missing, be it Node, a package or Chromium.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
PACKAGES = FOLDER / "node_modules"


def require_node(*packages: str) -> None:
    """Skip a module's tests where Node or one of these packages is not installed."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed", allow_module_level=True)
    for package in packages:
        if not (PACKAGES / package).is_dir():
            pytest.skip(f"{package} is not installed: make test-hosts-js installs it", allow_module_level=True)


def require_chromium() -> str:
    """The path of Chromium, or a skip of a module's tests where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if (path := shutil.which(name)) is not None:
            return path
    pytest.skip("chromium is not installed", allow_module_level=True)


def run_node(script: Path, *arguments: str | int | Path, stdin: str = "") -> str:
    """What a script prints on standard output."""
    done = subprocess.run(
        ["node", script, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
