"""The page of docs/apps/web runs the export in a real browser: it loads, writes, and stops when told to."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from llama3_runtime import Generator, SamplingParams

from tests.hosts_js.javascript import FOLDER, PACKAGES, require_chromium, require_node, run_node
from tests.support.paths import DOCS

if TYPE_CHECKING:
    from tests.support.sane_qwen import SaneQwen

require_node("onnxruntime-web", "@huggingface/tokenizers", "playwright-core")
CHROMIUM = require_chromium()

PAGE = DOCS / "apps" / "web"
PROMPT, NEW_TOKENS = "The capital of France is", 8


@contextmanager
def served(site: Path) -> Iterator[str]:
    """Set up the page's folder as docs/apps/web.md says, start its server, and yield its URL."""
    shutil.copytree(PAGE, site, ignore=shutil.ignore_patterns("node_modules", "model"), dirs_exist_ok=True)
    (site / "node_modules").symlink_to(PACKAGES)
    command = [sys.executable, site / "serve.py", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def visit(url: str, screenshot: Path, prompt: str = PROMPT, new_tokens: int = NEW_TOKENS) -> dict[str, Any]:
    printed = run_node(FOLDER / "drive_page.mjs", CHROMIUM, url, prompt, new_tokens, screenshot)
    report: dict[str, Any] = json.loads(printed)
    return report


@pytest.fixture(scope="module")
def report(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    site = tmp_path_factory.mktemp("site")
    (site / "model").symlink_to(folder)
    with served(site) as url:
        return visit(url, site / "page.png")


def test_the_page_loads_without_an_error(report: dict[str, Any]) -> None:
    assert (report["errors"], report["error"]) == ([], "")
    assert report["isolated"]


def test_progress_grows_with_the_weights(report: dict[str, Any]) -> None:
    progress = report["progress"]
    assert progress == sorted(progress)
    assert progress[-1] == 1
    assert len(progress) > 10


def test_the_text_is_our_generator_s(report: dict[str, Any], generator: Generator) -> None:
    text = generator.generate(PROMPT, SamplingParams(temperature=0, max_new_tokens=NEW_TOKENS)).text
    assert report["output"] == PROMPT + text


def test_qwen_s_text_is_llama_cpp_s(sane_qwen: SaneQwen, tmp_path: Path) -> None:
    prompt, text = next(iter(sane_qwen.texts.items()))
    (tmp_path / "model").symlink_to(sane_qwen.exported("contrib"))
    with served(tmp_path) as url:
        report = visit(url, tmp_path / "page.png", prompt, len(sane_qwen.new[prompt]))
    assert (report["errors"], report["error"]) == ([], "")
    assert report["output"] == prompt + text


def test_the_text_comes_token_by_token(report: dict[str, Any]) -> None:
    shown = [text for text in report["shown"] if text]
    assert len(shown) == NEW_TOKENS
    assert all(after.startswith(before) for before, after in pairwise(shown))
    assert float(report["speed"].removesuffix(" tokens/s")) > 0


def test_stop_ends_the_text(report: dict[str, Any], generator: Generator) -> None:
    """It ends a few tokens after the click at the latest, not after the thousand that were requested."""
    text = generator.generate(PROMPT, SamplingParams(temperature=0, max_new_tokens=200)).text
    assert (PROMPT + text).startswith(report["stopped"])
    assert PROMPT < report["stopped"] < PROMPT + text


def test_weights_that_were_cut_are_a_line_on_the_page(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    with (tmp_path / "model" / "model.onnx.data_1").open("r+b") as weights:
        weights.truncate(1000)
    with served(tmp_path) as url:
        error = visit(url, tmp_path / "page.png")["error"]
    assert re.search(r"/model/model\.onnx\.data_1: has 1000 bytes.* \d+; export the model again", error)


def test_an_export_that_is_not_there_is_a_line_on_the_page(tmp_path: Path) -> None:
    with served(tmp_path) as url:
        assert visit(url, tmp_path / "page.png")["error"].startswith(f"{url}model/llama3.json: the server says 404")
