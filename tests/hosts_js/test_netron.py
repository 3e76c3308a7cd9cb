"""Netron opens the export in a real browser and shows weights, shapes and the names of ops and layers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.hosts_js.javascript import FOLDER, require_chromium, require_node, run_node
from tests.support.vocabularies import smollm2_gguf

netron = pytest.importorskip("netron", reason="netron is not installed; run make test-hosts-js")
require_node("playwright-core")
CHROMIUM = require_chromium()

NODE, SCALES = "layers.0/self_attn/q_proj/parts.0/MatMulNBits", "layers.0.self_attn.q_proj.parts.0.scales"


@pytest.fixture(scope="module")
def report(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    screenshot = tmp_path_factory.mktemp("screenshot") / "netron.png"
    address = netron.serve(str(folder / "model.onnx"), address=("127.0.0.1", 0), browse=False)
    try:
        url = f"http://{address[0]}:{address[1]}/"
        printed = run_node(FOLDER / "drive_netron.mjs", CHROMIUM, url, NODE, SCALES, screenshot)
    finally:
        netron.stop(address)
    result: dict[str, Any] = json.loads(printed)
    return result


def test_inputs_and_outputs_have_types_and_shapes(report: dict[str, Any]) -> None:
    assert "input_idsint64[batch_size,sequence_length]" in report["nodes"]
    assert "past_key_values.29.valuefloat32[batch_size,3,past_sequence_length,64]" in report["nodes"]
    assert "logitsfloat32[batch_size,1,49152]" in report["nodes"]


def test_nodes_say_op_layer_and_shapes_of_weights(report: dict[str, Any]) -> None:
    (projection,) = (node for node in report["nodes"] if NODE in node)
    assert projection.startswith("MatMulNBits")
    assert "uint8[576,18,16]" in projection
    assert "scales〈576×18〉" in projection
    for op in ("GatherBlockQuantized", "RMSNormalization", "GroupQueryAttention", "FusedMatMul"):
        assert any(node.startswith(op) for node in report["nodes"]), op


def test_a_weight_is_the_gguf_s(report: dict[str, Any]) -> None:
    """Netron reads it from one of the weights files, and shows its smallest and its largest value."""
    assert re.search(r"tensor: float32\[576,18\]\s+location: model\.onnx\.data", report["weight"])
    (query,) = (tensor for tensor in gguf.GGUFReader(smollm2_gguf()).tensors if tensor.name == "blk.0.attn_q.weight")
    # A block of Q4_1: its scale and its minimum as float16, and 16 bytes of codes.
    scales = query.data.reshape(576, 18, 20)[..., :2].copy().view(np.float16)
    numbers = {float(number) for number in re.findall(r"^\d\.\d+$", report["tensor"], flags=re.MULTILINE)}
    assert {float(scales.min()), float(scales.max())} <= numbers
