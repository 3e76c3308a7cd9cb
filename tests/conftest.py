"""Fixtures for all tests: models that are created once per session."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.sane_qwen import SaneQwen


@pytest.fixture(scope="session")
def sane_llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """Yield `write_sane_llama` for a folder of half a gigabyte, which is removed after the session."""
    pytest.importorskip("llama_cpp")
    from tests.support.sane_llama import write_sane_llama

    folder = tmp_path_factory.mktemp("sane-llama")
    yield partial(write_sane_llama, folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="session", params=["qwen2", "qwen3"])
def sane_qwen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SaneQwen]:
    """Yield a small Qwen2, then a small Qwen3, with exports: a hundred megabytes, removed after the session."""
    pytest.importorskip("llama_cpp")
    from tests.support.sane_qwen import SaneQwen

    folder = tmp_path_factory.mktemp("sane-qwen")
    yield SaneQwen(folder, request.param)
    shutil.rmtree(folder)
