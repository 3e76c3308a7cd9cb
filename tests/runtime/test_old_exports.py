"""Exports of earlier versions of this package still run. They are stored as those versions wrote them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from llama3_models.gguf.file import GGUFFile
from llama3_models.reference import forward
from llama3_runtime import Generator, SamplingParams

from tests.support.graphs import kl_divergence
from tests.support.paths import DATA

EXPORTS = DATA
VERSIONS = sorted(folder.name for folder in EXPORTS.glob("exports-*"))


def test_there_are_old_exports() -> None:
    assert VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["contrib", "native"])
def test_an_old_export_computes_what_its_gguf_means(version: str, kind: str, tmp_path: Path) -> None:
    """The logits of a prompt in chunks and of tokens after it are right, and it generates text."""
    folder = shutil.copytree(EXPORTS / version / kind, tmp_path / "export")
    gguf = EXPORTS / version / "model.gguf"
    if kind == "native":
        shutil.copy(gguf, folder)
    ids = np.random.default_rng(0).integers(0, 272, 50)
    with GGUFFile.open(gguf) as file:
        expected = forward(file, ids)
    generator = Generator.from_folder(folder, chunk_size=20)
    model = generator.model
    found = [model.prefill(ids[:45]).copy(), *(model.prefill([token]).copy() for token in ids[45:])]
    assert kl_divergence(expected[44:], np.stack(found)) < 1e-2  # activations are int8
    assert generator.generate("the ring", SamplingParams(temperature=0, max_new_tokens=10)).text
