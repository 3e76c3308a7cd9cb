"""The export of SmolLM2 that the JavaScript hosts load, with float32 activations and weights in several files.

int8 rounding depends on how a text is split into chunks and on the host's kernels, so greedy texts could differ.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from llama3_exporter import export
from llama3_runtime import Generator

from tests.support.vocabularies import smollm2_gguf

SHARD_SIZE = 32_000_000


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("hosts-js") / "smollm2"
    return export(smollm2_gguf(), output, activations="float32", shard_size=SHARD_SIZE).output


@pytest.fixture(scope="session")
def generator(folder: Path) -> Generator:
    return Generator.from_folder(folder, max_length=256)
