"""A model with Llama 3.1's vocabulary, RoPE factors, grouping and mix of Q4_K and Q6_K, with few layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from llama3_exporter import export
from llama3_exporter.verify import verify
from llama3_models.gguf.file import GGUFFile
from llama3_models.reference import forward
from llama3_runtime.model import Model
from llama3_runtime.text.tokenizer import Tokenizer

from tests.support.graphs import kl_divergence


@pytest.fixture(scope="module")
def gguf(sane_llama: Callable[..., Path]) -> Path:
    return sane_llama("Q4_K_M", tokenizer="llama3")


@pytest.fixture(scope="module", params=["float32", "int8"])
def folder(request: pytest.FixtureRequest, gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama31") / request.param
    export(gguf, path, activations=request.param)
    return path


def test_it_verifies(gguf: Path, folder: Path) -> None:
    assert verify(folder, gguf).passed


def test_positions_past_8192(gguf: Path, folder: Path) -> None:
    """Llama 3.1's RoPE factors matter most here: without them, or with float32 angles, nothing would agree."""
    ids = np.random.default_rng(1).integers(0, 128_000, 8_400)
    with GGUFFile.open(gguf) as file:
        expected = forward(file, ids, last_only=True)
    model = Model.from_folder(folder, max_length=8_400)
    found = model.prefill(ids)[None]
    assert kl_divergence(expected, found) < (1e-6 if folder.name == "float32" else 2e-2)


def test_the_folder_s_tokenizer_is_llama_3_s(folder: Path) -> None:
    tokenizer = Tokenizer.from_path(folder)
    assert tokenizer.vocab_size == 128_256
    assert tokenizer.encode("I believe the meaning of life is") == [128000, 40, 4510, 279, 7438, 315, 2324, 374]
    assert tokenizer.eog_ids >= {128001, 128009}
