"""What every test can use: models that are made once in a session."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def sane_llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """`write_sane_llama` in a folder of the session, half a gigabyte that goes with it."""
    pytest.importorskip("llama_cpp")
    from tests.support.sane_llama import write_sane_llama

    folder = tmp_path_factory.mktemp("sane-llama")
    yield partial(write_sane_llama, folder)
    shutil.rmtree(folder)
