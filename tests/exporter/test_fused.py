"""A file with q, k and v in one tensor is exported to the same graph as its twin with three tensors.

Expected values come from the twin, and from llama.cpp in tests/models/test_reference.py.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as T
from llama3_exporter import export
from llama3_exporter.inspect.export import inspect_export
from llama3_exporter.inspect.gguf import inspect_gguf
from llama3_exporter.verify import verify
from llama3_models.architectures import ARCHITECTURES
from llama3_models.exports import Ops

from tests.support.graphs import Graph
from tests.support.llama_gguf import RANDOM_BLOCK_TYPES, fuse_qkv, split_gguf, write_llama_gguf

IDS = np.random.default_rng(0).integers(0, 320, 24)


def logits(gguf: Path, folder: Path, ops: Ops, **options: object) -> np.ndarray:
    export(gguf, folder, ops=ops, logits="all", force=True, **options)
    return Graph(folder)(IDS)[0]


@pytest.mark.parametrize("ops", ["contrib", "native"])
@pytest.mark.parametrize("type_", [*RANDOM_BLOCK_TYPES, T.F32, T.F16, T.BF16], ids=lambda type_: type_.name)
def test_every_type(type_: T, ops: Ops, tmp_path: Path) -> None:
    """The bytes of a row are not aligned: heads have 8 rows in blocks of 17, 18, 34, 110 or 210 bytes."""
    block_size = GGML_QUANT_SIZES[type_][0]
    plain = write_llama_gguf(
        tmp_path / "plain.gguf",
        hidden_size=288 if block_size <= 32 else 320 if block_size == 64 else 256,
        num_layers=1,
        num_heads=3,
        num_kv_heads=1,
        head_dim=16 if ops == "contrib" else 8,
        intermediate_size=32,
        types={"*attn_[qkv].weight": type_},
    )
    fused = fuse_qkv(plain, tmp_path / "fused.gguf")
    for options in ({}, {"activations": "float32"}):
        expected = logits(plain, tmp_path / "out", ops, **options)
        np.testing.assert_array_equal(logits(fused, tmp_path / "out", ops, **options), expected)


SHAPES = {
    "biases": {"attention_bias": True},
    "separate biases": {"attention_bias": True, "fused": {"biases": False}},
    "one layer of three": {"num_layers": 3, "fused": {"layers": [1]}},
    "one key-value head": {"num_heads": 8, "num_kv_heads": 1},
}


@pytest.mark.parametrize("ops", ["contrib", "native"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_shape(architecture: str, shape: dict[str, object], ops: Ops, tmp_path: Path) -> None:
    shape = {**shape, "architecture": architecture, "types": T.Q4_K}
    how = shape.pop("fused", {})
    plain = write_llama_gguf(tmp_path / "plain.gguf", **shape)
    fused = fuse_qkv(plain, tmp_path / "fused.gguf", **how)
    expected = logits(plain, tmp_path / "out", ops)
    np.testing.assert_array_equal(logits(fused, tmp_path / "out", ops), expected)


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_a_split_file(ops: Ops, tmp_path: Path) -> None:
    plain = write_llama_gguf(tmp_path / "plain.gguf", types=T.Q6_K, attention_bias=True)
    (tmp_path / "parts").mkdir()
    fused = split_gguf(fuse_qkv(plain, tmp_path / "fused.gguf"), tmp_path / "parts", max_tensors=5)[0]
    np.testing.assert_array_equal(
        logits(fused, tmp_path / "out", ops), logits(plain, tmp_path / "expected", ops, max_length=512)
    )


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_an_export_verifies(ops: Ops, tmp_path: Path) -> None:
    fused = fuse_qkv(write_llama_gguf(tmp_path / "plain.gguf", types=T.Q5_K), tmp_path / "fused.gguf")
    export(fused, tmp_path / "out", ops=ops)
    assert verify(tmp_path / "out", fused).passed


def test_native_weights_lie_in_the_gguf(tmp_path: Path) -> None:
    """Nothing is copied: q, k and v follow one another in the file."""
    plain = write_llama_gguf(tmp_path / "plain.gguf", types=T.Q6_K, attention_bias=True)
    fused = fuse_qkv(plain, tmp_path / "fused.gguf")
    export(fused, tmp_path / "out", ops="native")
    graph = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False).graph
    places = {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in graph.initializer
        if tensor.name.startswith("layers.")
    }
    assert {place["location"] for place in places.values()} == {"fused.gguf"}
    for kind in ("weight", "bias"):
        spans = [places[f"layers.0.self_attn.{part}_proj.{kind}"] for part in "qkv"]
        for before, after in pairwise(spans):
            assert int(before["offset"]) + int(before["length"]) == int(after["offset"])


def test_what_is_inspected(tmp_path: Path) -> None:
    plain = write_llama_gguf(tmp_path / "plain.gguf", types=T.Q4_K, attention_bias=True)
    fused = fuse_qkv(plain, tmp_path / "fused.gguf")
    of_plain, of_fused = inspect_gguf(plain), inspect_gguf(fused)
    assert of_fused.architecture == of_plain.architecture
    (weight,) = (weight for weight in of_fused.weights if weight.name == "blk.1.attn_qkv.weight")
    parts = [weight for weight in of_plain.weights if weight.name in [f"blk.1.attn_{part}.weight" for part in "qkv"]]
    assert (weight.layer, weight.role, weight.form) == (1, "attention", "Q4_K")
    assert weight.contrib_form == parts[0].contrib_form
    for name in ("parameters", "bytes", "contrib_bytes"):
        assert getattr(weight, name) == sum(getattr(part, name) for part in parts)
    assert of_fused.memory[1] == of_plain.memory[1]
    for gguf, expected in ((plain, of_plain), (fused, of_fused)):
        export(gguf, tmp_path / "out", force=True)
        found = inspect_export(tmp_path / "out")
        assert sum(weight.parameters for weight in found.weights) == sum(
            weight.parameters for weight in expected.weights
        )
