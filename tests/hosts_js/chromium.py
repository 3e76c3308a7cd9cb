"""Exports in Chromium, with the pages of tests/hosts_js/pages and WebGPU computed in software."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tests.hosts_js.javascript import FOLDER, PACKAGES, run_node
from tests.support.paths import DOCS

Job: TypeAlias = "tuple[str, dict[str, Any]]"
"""A function of pages/hosts.js, and its argument."""


@dataclass(frozen=True)
class Site:
    """A server of the pages, and of the exports in its folder `models`."""

    executable: str
    folder: Path
    url: str

    @property
    def models(self) -> Path:
        return self.folder / "models"

    def run(self, *jobs: Job) -> list[dict[str, Any]]:
        """Run jobs in one browser, each in a page of its own; an error in one of them is an error here."""
        reports = self.try_to_run(*jobs)
        for (name, argument), report in zip(jobs, reports, strict=True):
            assert "error" not in report, (name, argument, report["error"], report["log"][:20])
        return reports

    def try_to_run(self, *jobs: Job) -> list[dict[str, Any]]:
        printed = run_node(FOLDER / "drive_jobs.mjs", self.executable, self.url, stdin=json.dumps(jobs), timeout=1200)
        reports: list[dict[str, Any]] = json.loads(printed)
        return reports


@contextmanager
def served(executable: str, folder: Path) -> Iterator[Site]:
    """Serve the pages from `folder` with the server of docs/apps/web."""
    shutil.copytree(FOLDER / "pages", folder, dirs_exist_ok=True)
    shutil.copy(DOCS / "apps" / "web" / "serve.py", folder)
    (folder / "node_modules").symlink_to(PACKAGES)
    (folder / "models").mkdir()
    command = [sys.executable, folder / "serve.py", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            yield Site(executable, folder, server.stdout.readline().strip())
        finally:
            server.terminate()


def logits_of(result: dict[str, Any], row: int) -> np.ndarray:
    """Return the logits of one prompt of a batch: float32 [steps, vocab_size]."""
    return np.array([step[row] for step in result["logits"]], dtype=np.float32)
