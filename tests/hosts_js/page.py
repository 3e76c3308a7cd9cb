"""The page of docs/apps/web in Chromium, with an export beside it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hosts_js.javascript import FOLDER, PACKAGES, require_chromium, run_node
from tests.support.paths import DOCS

PAGE = DOCS / "apps" / "web"
NO_WEBGPU = "delete Navigator.prototype.gpu;"


@dataclass(frozen=True)
class Page:
    """A server of the page, until `server` is terminated."""

    folder: Path
    url: str
    server: subprocess.Popen[str]

    def visit(self, profile: str = "profile", **options: Any) -> dict[str, Any]:
        """Visit it with the browser's profile of that name; `options` are drive_page.mjs's."""
        options |= {"profile": str(self.folder / profile)}
        report: dict[str, Any] = json.loads(
            run_node(FOLDER / "drive_page.mjs", require_chromium(), self.url, json.dumps(options), timeout=900)
        )
        return report

    def sent(self) -> list[str]:
        """Return the paths of the files that the server has sent so far, without answers that nothing has changed."""
        log = (self.folder / "log").read_text(encoding="utf-8")
        return re.findall(r'"GET (\S+) HTTP/1.1" 200', log)


@contextmanager
def served_page(
    folder: Path, model: Path | None, *, in_worker: Sequence[str] = (), isolated: bool = True
) -> Iterator[Page]:
    """Set up the page's folder as docs/apps/web.md says, and serve it.

    Args:
        folder: The folder to set up.
        model: The export's folder, or None for a page without one.
        in_worker: Files of `pages` that the page's worker runs first.
        isolated: Whether to use the page's own server, whose headers make pages cross-origin isolated.
    """
    shutil.copytree(PAGE, folder, ignore=shutil.ignore_patterns("node_modules", "model"), dirs_exist_ok=True)
    (folder / "node_modules").symlink_to(PACKAGES)
    if model:
        (folder / "model").symlink_to(model)
    for name in in_worker:
        shutil.copy(FOLDER / "pages" / name, folder)
    worker = folder / "worker.js"
    imports = "".join(f'import "./{name}";\n' for name in in_worker)
    worker.write_text(imports + worker.read_text(encoding="utf-8"), encoding="utf-8")

    own = [sys.executable, "-u", folder / "serve.py", "0"]
    plain = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", folder]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(own if isolated else plain, stdout=subprocess.PIPE, stderr=log, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
            assert found
            yield Page(folder, found[0], server)
        finally:
            server.terminate()
