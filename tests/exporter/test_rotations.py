"""Both kinds of export refuse rotations that cannot be computed, with the same error, and accept odd ones that can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from llama3_exporter import export
from llama3_models.errors import Llama3Error

from tests.support.llama_gguf import write_llama_gguf

SIZE = {"hidden_size": 64, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 64}


def factors(value: float) -> dict[str, object]:
    return {"rope_factors": np.array([1.0] * 15 + [value], np.float32)}


def scaling(value: float) -> dict[str, object]:
    return {"rope_scaling": {"type": "linear", "factor": value}}


@pytest.mark.parametrize(
    "options",
    [
        *({"rope_theta": value} for value in (0.0, -1.0, -1e4, 1e-45, 1e-40, 1e-9, np.inf, -np.inf, np.nan)),
        *(scaling(value) for value in (-1.0, 1e-45, 1e-15, np.inf, np.nan)),
        *(factors(value) for value in (0.0, -1.0, 1e-45, np.inf, np.nan)),
    ],
    ids=str,
)
def test_what_cannot_be_computed_is_refused_alike(tmp_path: Path, options: dict[str, object]) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf", **SIZE, **options)
    said = []
    for ops in ("contrib", "native"):
        with pytest.raises(Llama3Error) as error:
            export(gguf, tmp_path / "out", ops=ops)
        said.append(str(error.value))
    assert said[0] == said[1]
    assert said[0].startswith(f"{gguf}: ")
    assert "\n" not in said[0]


@pytest.mark.parametrize("options", [{"rope_theta": 1.0}, {"rope_theta": 3e38}, scaling(0.0), factors(1e30)], ids=str)
def test_what_can_be_computed_is_taken_alike(tmp_path: Path, options: dict[str, object]) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf", **SIZE, **options)
    for ops in ("contrib", "native"):
        export(gguf, tmp_path / ops, ops=ops)
