"""The exported graph computes what the GGUF defines, for all shapes, types and architectures, however hosts pad.

Expected values come from the numpy reference, which tests/models/test_reference.py compares with llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from gguf import GGMLQuantizationType as T
from llama3_exporter import export
from llama3_exporter.verify import verify
from llama3_models.gguf.file import GGUFFile
from llama3_models.reference import forward

from tests.support.graphs import Graph, kl_divergence
from tests.support.llama_gguf import blank_tensors, linear_scales, llama31_rope_factors, split_gguf, write_llama_gguf

MIXED = {
    "token_embd.weight": T.Q5_K,
    "output.weight": T.Q6_K,
    "blk.0.attn_q.weight": T.Q4_K,
    "blk.0.attn_k.weight": T.Q5_0,
    "blk.0.attn_v.weight": T.Q6_K,
    "blk.0.attn_output.weight": T.IQ4_XS,
    "blk.0.ffn_gate.weight": T.Q3_K,
    "blk.0.ffn_up.weight": T.Q2_K,
    "blk.0.ffn_down.weight": T.BF16,
    "blk.1.attn_q.weight": T.F16,
    "blk.1.attn_k.weight": T.F32,
    "blk.1.attn_v.weight": T.Q8_0,
    "blk.1.attn_output.weight": T.IQ3_S,
    "blk.1.ffn_gate.weight": T.Q4_0,
    "blk.1.ffn_up.weight": T.Q4_1,
    "blk.1.ffn_down.weight": T.Q5_1,
}

YARN = {"type": "yarn", "factor": 4.0, "original_context_length": 64, "attn_factor": 1.3}

# Rows of odd sizes, heads that share keys, head sizes other than hidden / heads.
SHAPES = {
    "grouped 4:1": {"num_heads": 8, "num_kv_heads": 2},
    "heads of 48": {"num_heads": 4, "num_kv_heads": 2, "head_dim": 48},
    "long heads": {"num_heads": 2, "num_kv_heads": 1, "head_dim": 128},
    "half of a head rotates": {"num_heads": 4, "num_kv_heads": 2, "rope_dim": 32},
    "Llama 3.1 factors": {"rope_factors": llama31_rope_factors(64), "rope_theta": 500_000.0},
    "linear scaling": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "YaRN": {"rope_scaling": YARN},
    "YaRN and factors": {"rope_scaling": YARN, "rope_factors": np.linspace(1, 8, 32)},
    "an attention factor": {"rope_scaling": {"type": "linear", "factor": 2.0, "attn_factor": 1.5}},
    "biases": {"attention_bias": True},
    "odd sizes": {"hidden_size": 96, "num_heads": 3, "num_kv_heads": 1, "intermediate_size": 224, "vocab_size": 333},
    "Qwen2": {"architecture": "qwen2", "num_heads": 8, "num_kv_heads": 2},
    "Qwen2, mixed types": {"architecture": "qwen2", "types": MIXED},
    "Qwen2, YaRN": {"architecture": "qwen2", "rope_scaling": YARN},
    "Qwen3": {"architecture": "qwen3", "num_heads": 4, "num_kv_heads": 1, "head_dim": 48, "tied": True},
    "Qwen3, mixed types": {"architecture": "qwen3", "types": MIXED, "rope_theta": 1e6},
    "tied, float32": {"tied": True},
    "tied, float16": {"tied": True, "types": T.F16},
    "tied, bfloat16": {"tied": True, "types": T.BF16},
    "tied, Q4_1": {"tied": True, "types": T.Q4_1},
    "tied, Q8_0": {"tied": True, "types": T.Q8_0},
    "tied, Q4_K": {"tied": True, "types": T.Q4_K},
    "tied, Q5_K": {"tied": True, "types": T.Q5_K},
    "tied, Q6_K": {"tied": True, "types": T.Q6_K},
    "mixed types": {"types": MIXED},
    "scales": {"vectors": linear_scales(head=True)},
    "scales and biases": {"vectors": linear_scales(), "attention_bias": True, "tied": True, "types": T.Q4_0},
    "Qwen2, scales": {"architecture": "qwen2", "vectors": linear_scales(head=True), "types": MIXED},
    "Qwen3, scales": {"architecture": "qwen3", "vectors": linear_scales(head=True), "types": MIXED},
}


def exported(tmp_path: Path, options: dict[str, object] | None = None, **shape: object) -> tuple[Path, Path]:
    gguf = write_llama_gguf(tmp_path / "model.gguf", **shape)
    options = {"activations": "float32", **(options or {})}
    export(gguf, tmp_path / "out", **options)
    return gguf, tmp_path / "out"


def test_yarn_in_float16_verifies(tmp_path: Path) -> None:
    gguf, folder = exported(tmp_path, {"precision": "fp16"}, rope_scaling=YARN)
    assert verify(folder, gguf).passed


def random_ids(count: int, vocab_size: int = 320, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocab_size, count)


@pytest.mark.parametrize("ops", ["contrib", "native"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_shape_and_type_equals_the_reference(tmp_path: Path, shape: dict[str, object], ops: str) -> None:
    gguf, folder = exported(tmp_path, {"logits": "all", "ops": ops}, **shape)
    ids = random_ids(40)
    with GGUFFile.open(gguf) as file:
        expected = forward(file, ids)
    found, _ = Graph(folder)(ids)
    assert np.abs(found[0] - expected).max() < 1e-4 * np.abs(expected).max()


def test_int8_activations_lose_little(tmp_path: Path) -> None:
    """The rounding, like llama.cpp's, is visible but small compared with the distribution."""
    gguf, folder = exported(tmp_path, {"logits": "all", "activations": "int8"}, types=MIXED)
    ids = random_ids(100)
    with GGUFFile.open(gguf) as file:
        expected = forward(file, ids)
    found, _ = Graph(folder)(ids)
    assert 1e-9 < kl_divergence(expected, found[0]) < 2e-2


@pytest.mark.parametrize(
    ("architecture", "ops", "folding"),
    [
        ("llama", "contrib", True),
        ("llama", "contrib", False),
        ("llama", "native", True),
        ("qwen3", "contrib", True),
        ("qwen3", "native", True),
        ("qwen2", "contrib", True),
        ("qwen2", "contrib", False),
        ("qwen2", "native", True),
    ],
)
def test_late_positions_rotate_right(tmp_path: Path, architecture: str, ops: str, folding: bool) -> None:
    """Past position 8,192, Llama 3.1's factors matter most, and float32 angles would be wrong in the fourth digit.

    Qwen2 has YaRN here.
    """
    shape: dict[str, object] = {"num_layers": 1, "hidden_size": 64, "num_heads": 2, "num_kv_heads": 1}
    shape["intermediate_size"] = 96
    shape["rope_factors"] = llama31_rope_factors(32) if architecture == "llama" else None
    if architecture == "qwen2":
        shape["rope_scaling"] = {"type": "yarn", "factor": 4.0, "original_context_length": 2048, "attn_factor": 1.1}
    shape |= {"architecture": architecture, "context_length": 131_072, "rope_theta": 500_000.0, "head_dim": 32}
    gguf, folder = exported(tmp_path, {"ops": ops}, **shape)
    ids = random_ids(9_000)
    with GGUFFile.open(gguf) as file:
        expected = forward(file, ids, last_only=True)
    found, _ = Graph(folder, folding=folding)(ids)
    assert np.abs(found[0] - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("context_length", [131_072, 1_048_576])
def test_rotary_tables_are_right_up_to_the_last_position(tmp_path: Path, context_length: int) -> None:
    """They are cos and sin of position * theta^(-2i / d) / factor, to the last digits of float32."""
    factors, theta = llama31_rope_factors(32), 500_000.0
    _, folder = exported(
        tmp_path, num_layers=1, head_dim=32, context_length=context_length, rope_theta=theta, rope_factors=factors
    )
    tables = rotary_tables(folder)
    frequencies = theta ** (-np.arange(0, 32, 2) / 32) / factors.astype(np.float64)
    for width in (1, 511, 512, 513, 100_001, context_length):
        cos, sin = tables(width)
        assert width <= len(cos) == len(sin) < width + 512
        angles = np.outer(np.arange(width), frequencies)
        np.testing.assert_allclose(cos[:width], np.cos(angles), rtol=0, atol=2e-7)
        np.testing.assert_allclose(sin[:width], np.sin(angles), rtol=0, atol=2e-7)


def rotary_tables(folder: Path) -> Callable[[int], list[np.ndarray]]:
    """Return a function from a prompt's length to the cosines and sines that the graph's attention gets."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    attention = next(node for node in model.graph.node if node.op_type == "GroupQueryAttention")
    inputs = ["input_ids", "attention_mask", attention.input[3]]
    part = onnx.utils.Extractor(model).extract_model(inputs, list(attention.input[7:9]))
    session = ort.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])
    cache = np.zeros((1, 2, 0, 32), np.float32)
    return lambda width: session.run(None, dict(zip(inputs, [*np.ones((2, 1, width), np.int64), cache], strict=True)))


def test_the_start_of_a_long_context_is_cheap(tmp_path: Path) -> None:
    """A graph that reaches a million positions contains no table of a million rows, and makes none at load."""
    _, folder = exported(tmp_path, num_layers=1, head_dim=32, context_length=1_048_576)
    assert (folder / "model.onnx").stat().st_size < 2_000_000
    cos, _ = rotary_tables(folder)(7)
    assert len(cos) == 512


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("logits", ["last", "selected", "all"])
def test_padding_on_either_side_changes_nothing(tmp_path: Path, side: str, logits: str) -> None:
    """Each prompt in a batch of different lengths gets the logits that it gets alone, and so do later single tokens."""
    _, folder = exported(tmp_path, {"logits": logits}, num_heads=8, num_kv_heads=2)
    graph = Graph(folder)
    prompts = [random_ids(7, seed=1), random_ids(12, seed=2), random_ids(1, seed=3)]
    steps = random_ids(4, seed=4)
    width = max(map(len, prompts))
    ids = np.zeros((len(prompts), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        place = slice(width - len(prompt), width) if side == "left" else slice(0, len(prompt))
        ids[row, place], mask[row, place] = prompt, 1

    batch_logits, batch_cache = graph(ids, mask)
    for row, prompt in enumerate(prompts):
        alone, _ = graph(prompt)
        found = batch_logits[row]
        if logits == "all":
            found = found[mask[row] == 1]
        np.testing.assert_allclose(found, alone[0], atol=1e-4)

    for step in steps:
        mask = np.concatenate([mask, np.ones((len(prompts), 1), dtype=np.int64)], axis=1)
        batch_logits, batch_cache = graph(np.full((len(prompts), 1), step), mask, batch_cache)
    for row, prompt in enumerate(prompts):
        alone, _ = graph(np.concatenate([prompt, steps]))
        np.testing.assert_allclose(batch_logits[row, -1], alone[0, -1], atol=1e-4)


def test_selected_logits_are_the_last_ones(tmp_path: Path) -> None:
    _, folder = exported(tmp_path, {"logits": "selected"})
    gguf = tmp_path / "model.gguf"
    ids = random_ids(20)
    with GGUFFile.open(gguf) as file:
        expected = forward(file, ids)
    graph = Graph(folder)
    for keep in (None, 1, 5, 20):
        found, _ = graph(ids, keep=keep)
        assert found.shape == (1, keep or 1, 320)
        np.testing.assert_allclose(found[0], expected[-(keep or 1) :], atol=1e-4 * np.abs(expected).max())


def test_float16_with_float32_activations_verifies(tmp_path: Path) -> None:
    gguf, folder = exported(tmp_path, {"precision": "fp16"}, types=MIXED)
    assert verify(folder, gguf).passed


@pytest.mark.parametrize("type_", [T.Q4_0, T.Q4_1, T.Q8_0, T.Q4_K])
def test_a_tied_embedding_s_codes_are_there_once(tmp_path: Path, type_: T) -> None:
    """In float16, the head has float16 scales and the embedding float32 ones, but they share the codes."""
    options = {"precision": "fp16", "activations": "int8", "logits": "all"}
    gguf, folder = exported(tmp_path, options, tied=True, types={"token_embd.weight": type_})
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    places = [
        {entry.key: entry.value for entry in tensor.external_data}["offset"]
        for tensor in model.graph.initializer
        if tensor.name.startswith(("embed_tokens", "lm_head")) and tensor.name.endswith("parts.0.weight")
    ]
    assert len(places) == 2
    assert len(set(places)) == 1
    ids = random_ids(40)
    with GGUFFile.open(gguf) as file:
        expected = forward(file, ids)
    found, _ = Graph(folder)(ids)
    assert kl_divergence(expected, found[0]) < 2e-2


def test_a_product_past_float16_that_a_scale_brings_back_is_not_float16(tmp_path: Path) -> None:
    """NVFP4 has such products: its blocks reach 2,688, and the scale beside them brings the weights back to normal."""

    def weights(name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        usual = np.random.default_rng(0).normal(0, shape[-1] ** -0.5, shape)
        return 4e5 * usual if name == "blk.0.ffn_up.weight" else None

    vectors = {"blk.0.ffn_up.scale": [2.5e-6]}
    options = {"precision": "fp16", "logits": "all"}
    gguf, folder = exported(tmp_path, options, types=T.Q8_0, weights=weights, vectors=vectors)
    ids = random_ids(40)
    with GGUFFile.open(gguf) as file:
        expected = forward(file, ids)
    found, _ = Graph(folder)(ids)
    assert kl_divergence(expected, found[0]) < 1e-3


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_files_without_scales_have_no_node_for_them(tmp_path: Path, ops: str) -> None:
    counts = []
    for name, vectors in (("plain", {}), ("scaled", linear_scales())):
        gguf = write_llama_gguf(tmp_path / f"{name}.gguf", vectors=vectors, types=T.Q8_0)
        export(gguf, tmp_path / name, ops=ops)
        nodes = onnx.load(tmp_path / name / "model.onnx", load_external_data=False).graph.node
        counts.append(sum(node.op_type == "Mul" for node in nodes))
    assert counts[1] - counts[0] == 14  # one per linear in both layers


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_a_matrix_of_zeros_is_a_matrix(tmp_path: Path, ops: str) -> None:
    """Pruned and freshly extended models have such matrices."""
    types = {"blk.0.ffn_down.weight": T.Q8_0, "*": T.Q4_K}
    gguf = write_llama_gguf(tmp_path / "model.gguf", types=types)
    blank_tensors(gguf, "blk.0.ffn_down.weight", "blk.1.attn_output.weight")
    export(gguf, tmp_path / "out", ops=ops, activations="float32", logits="all")
    ids = random_ids(20)
    with GGUFFile.open(gguf) as file:
        expected = forward(file, ids)
    found, _ = Graph(tmp_path / "out")(ids)
    assert np.abs(found[0] - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_a_split_gguf_is_the_same_from_any_part(tmp_path: Path, ops: str) -> None:
    whole = write_llama_gguf(tmp_path / "model.gguf", types=T.Q4_K)
    (tmp_path / "parts").mkdir()
    parts = split_gguf(whole, tmp_path / "parts", max_tensors=8)
    assert len(parts) == 3
    ids = random_ids(20)
    export(whole, tmp_path / "whole", ops=ops, logits="all")
    expected, _ = Graph(tmp_path / "whole")(ids)
    for part in parts:
        export(part, tmp_path / part.stem, ops=ops, logits="all")
        found, _ = Graph(tmp_path / part.stem)(ids)
        np.testing.assert_array_equal(found, expected)


def test_the_contract_of_inputs_and_outputs(tmp_path: Path) -> None:
    """Optimum and onnxruntime-genai rely on these names, types and shapes."""
    _, folder = exported(tmp_path, num_layers=2, num_heads=4, num_kv_heads=2, hidden_size=256)
    session = Graph(folder).session
    cache = ["past_key_values.0.key", "past_key_values.0.value", "past_key_values.1.key", "past_key_values.1.value"]
    assert [node.name for node in session.get_inputs()] == ["input_ids", "attention_mask", *cache]
    presents = [name.replace("past_key_values", "present") for name in cache]
    assert [node.name for node in session.get_outputs()] == ["logits", *presents]
    assert session.get_outputs()[0].shape == ["batch_size", 1, 320]
    assert session.get_inputs()[2].shape == ["batch_size", 2, "past_sequence_length", 64]
    assert {node.type for node in session.get_inputs()[:2]} == {"tensor(int64)"}


def test_float16_export_keeps_what_float16_would_round_in_float32(tmp_path: Path) -> None:
    """Attention and the linears with float16 scales are float16; a K-quant's scales need 17 bits and stay float32."""
    gguf, folder = exported(tmp_path, {"precision": "fp16", "activations": "int8", "logits": "all"}, types=MIXED)
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    scales = {t.name: t.data_type for t in model.graph.initializer if t.name.endswith("scales")}
    by_type = {MIXED[name]: name for name in MIXED}
    names = {T.Q4_0: "layers.1.mlp.gate_proj", T.Q8_0: "layers.1.self_attn.v_proj", T.Q4_K: "layers.0.self_attn.q_proj"}
    assert set(names) <= set(by_type)
    for type_, prefix in names.items():
        (dtype,) = {dtype for name, dtype in scales.items() if name.startswith(prefix)}
        assert dtype == (onnx.TensorProto.FLOAT if type_ == T.Q4_K else onnx.TensorProto.FLOAT16), type_
    inputs = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    assert inputs["past_key_values.0.key"] == onnx.TensorProto.FLOAT16
    (attention, *_) = (node for node in model.graph.node if node.op_type == "GroupQueryAttention")
    assert attention.attribute

    ids = random_ids(40)
    with GGUFFile.open(gguf) as file:
        expected = forward(file, ids)
    found, _ = Graph(folder)(ids)
    assert kl_divergence(expected, found[0]) < 2e-2
