"""A graph runs with the weights that it was exported with, and with no others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from llama3_exporter import export
from llama3_models.errors import Llama3Error
from llama3_runtime.model import Model

from tests.support.llama_gguf import write_llama_gguf


@pytest.fixture(scope="module", params=[None, 100_000], ids=["one file", "several"])
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Export two models that differ only in the values of their weights."""
    folder = tmp_path_factory.mktemp("twins")
    exports = []
    for seed in (1, 2):
        gguf = write_llama_gguf(folder / f"{seed}.gguf", types=T.Q4_K, seed=seed)
        exports.append(export(gguf, folder / str(seed), shard_size=request.param).output)
    return exports[0], exports[1]


def of_the_other(mine: Path, other: Path) -> None:
    shutil.copy(other, mine)


def longer(mine: Path, other: Path) -> None:
    mine.write_bytes(mine.read_bytes() + b"\0")


def another_s_end(mine: Path, other: Path) -> None:
    data = mine.read_bytes()
    mine.write_bytes(data[: len(data) // 2] + other.read_bytes()[len(data) // 2 :])


@pytest.mark.parametrize("change", [of_the_other, longer, another_s_end], ids=lambda change: change.__name__)
def test_weights_of_another_graph_are_refused(
    twins: tuple[Path, Path], tmp_path: Path, change: Callable[[Path, Path], None]
) -> None:
    for name in sorted(path.name for path in twins[0].glob("model.onnx.data*")):
        shutil.copytree(twins[0], tmp_path / name)
        change(tmp_path / name / name, twins[1] / name)
        with pytest.raises(Llama3Error, match=rf"{name}: not the weights of this graph"):
            Model.from_folder(tmp_path / name)


def test_its_own_weights_run_wherever_they_are(twins: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(twins[0], tmp_path / "elsewhere")
    logits = [Model.from_folder(folder).forward([1, 2, 3]) for folder in (twins[0], tmp_path / "elsewhere")]
    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize("left", [0, 1, 1000])
def test_weights_that_are_not_whole_are_said_to_be_so(twins: tuple[Path, Path], tmp_path: Path, left: int) -> None:
    shutil.copytree(twins[0], tmp_path / "cut")
    path = tmp_path / "cut" / "model.onnx.data"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(Llama3Error, match=rf"^{path}: has {left:,} of {size:,} bytes"):
        Model.from_folder(tmp_path / "cut")
    path.unlink()
    with pytest.raises(Llama3Error, match=rf"^{path}: the weights of this graph are missing"):
        Model.from_folder(tmp_path / "cut")
