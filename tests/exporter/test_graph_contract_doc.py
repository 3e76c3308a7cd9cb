"""docs/graph-contract.md is true: its tables are compared with real exports, loaded by onnx and onnxruntime."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from gguf import GGMLQuantizationType as T
from llama3_exporter import export

from tests.support.graphs import Graph
from tests.support.llama_gguf import write_llama_gguf
from tests.support.paths import DOCS, ROOT

PAGE = DOCS / "graph-contract.md"
PYPROJECT = ROOT / "pyproject.toml"

HEAD_DIM, NUM_KV_HEADS, NUM_LAYERS, VOCAB_SIZE = 64, 2, 2, 320
NUMBERS = {"head_dim": HEAD_DIM, "num_key_value_heads": NUM_KV_HEADS, "vocab_size": VOCAB_SIZE, "1": 1}
TENSOR_TYPES = {"int64": "tensor(int64)", "float32": "tensor(float)", "float16": "tensor(float16)"}

Row = tuple[str, ...]


@cache
def section(title: str) -> str:
    """Return the text under a heading of the page."""
    parts = re.split(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[title]


def table(title: str) -> list[Row]:
    """Return the cells of the table under a heading, without its two header lines and without backquotes."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    rows = [tuple(cell.strip().replace("`", "") for cell in line.strip("|").split("|")) for line in lines[2:]]
    assert rows, title
    return rows


def shape_of(cell: str) -> list[int | str]:
    """Parse `[batch_size, 1, vocab_size]`, with numbers for the names that are numbers in the graph."""
    names = cell.strip("[]").split(", ")
    return [NUMBERS.get(name, name) for name in names]


def values_of(title: str) -> dict[str, tuple[str, list[int | str]]]:
    """Return the type and shape of each name, once per layer for names with {i}."""
    values = {}
    for name, dtype, shape in table(title):
        for i in range(NUM_LAYERS):
            values[name.replace("{i}", str(i))] = (TENSOR_TYPES[dtype], shape_of(shape))
    return values


def found(nodes: list[object]) -> dict[str, tuple[str, list[int | str]]]:
    return {node.name: (node.type, node.shape) for node in nodes}


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a tied model whose blocks have a minimum, which needs every operator on the page."""
    path = tmp_path_factory.mktemp("contract") / "model.gguf"
    return write_llama_gguf(
        path, num_layers=NUM_LAYERS, num_kv_heads=NUM_KV_HEADS, vocab_size=VOCAB_SIZE, tied=True, types=T.Q4_K
    )


@pytest.fixture(scope="module")
def folder(gguf: Path) -> Path:
    export(gguf, gguf.parent / "out", activations="float32")
    return gguf.parent / "out"


def test_inputs_and_outputs(folder: Path) -> None:
    session = Graph(folder).session
    assert found(session.get_inputs()) == values_of("Inputs")
    assert found(session.get_outputs()) == values_of("Outputs")
    assert session.get_overridable_initializers() == []


def test_logits_modes(gguf: Path, tmp_path: Path) -> None:
    modes = {mode: shape_of(shape) for mode, shape, _ in table("Which positions get logits")}
    for mode, shape in modes.items():
        export(gguf, tmp_path / mode, logits=mode)
        session = Graph(tmp_path / mode).session
        assert found(session.get_outputs())["logits"] == ("tensor(float)", shape)
        extra = found(session.get_overridable_initializers())
        assert extra == ({"logits_to_keep": ("tensor(int64)", [1])} if mode == "selected" else {})
    assert set(modes) == {"last", "all", "selected"}


def test_precisions(gguf: Path, tmp_path: Path) -> None:
    for ops, option, cache_type, _ in table("Precision"):
        name, value = option.removeprefix("--").split()
        folder = tmp_path / f"{ops}-{value}"
        export(gguf, folder, ops=ops, **{name: value})
        session = Graph(folder).session
        inputs, outputs = found(session.get_inputs()), found(session.get_outputs())
        assert inputs["past_key_values.0.key"][0] == TENSOR_TYPES[cache_type]
        assert outputs["present.1.value"][0] == TENSOR_TYPES[cache_type]
        assert outputs["logits"][0] == "tensor(float)"


def test_activations(gguf: Path, tmp_path: Path) -> None:
    for activations, level, _ in table("Activations"):
        export(gguf, tmp_path / activations, activations=activations)
        nodes = onnx.load(tmp_path / activations / "model.onnx", load_external_data=False).graph.node
        levels = {a.i for n in nodes if n.op_type == "MatMulNBits" for a in n.attribute if a.name == "accuracy_level"}
        assert levels == {int(level)}


def test_versions_and_operators(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    versions = dict(table("Versions"))
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    assert opsets == {"": int(versions["opset of ONNX"]), "com.microsoft": int(versions["opset of com.microsoft"])}
    assert model.ir_version == int(versions["IR"])
    (requirement,) = re.findall(r'"onnxruntime>=([\d.]+)"', PYPROJECT.read_text(encoding="utf-8"))
    assert versions["onnxruntime"] == f"{requirement} or later"
    listed = set(re.findall(r"^- (\w+)$", section("Versions"), flags=re.MULTILINE))
    assert {node.op_type for node in model.graph.node if node.domain == "com.microsoft"} == listed
    (metadata,) = model.metadata_props
    assert metadata.key == "llama3"
    assert json.loads(metadata.value) == json.loads((folder / "llama3.json").read_text(encoding="utf-8"))
    onnx.checker.check_model(folder / "model.onnx", full_check=True)


def test_files_and_facts(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {name for name, _ in table("The folder")}
    facts = json.loads((folder / "llama3.json").read_text(encoding="utf-8"))
    keys = {key for key, value in facts.items() if key == "types" or not isinstance(value, dict)}
    keys |= {f"{outer}.{inner}" for outer in ("source", "options") for inner in facts[outer]}
    assert keys == {key for key, _ in table("llama3.json")}


def test_a_prompt_may_go_in_whole_in_chunks_or_token_by_token(folder: Path) -> None:
    """All ways in the section on the mask are equal, with one oversized buffer as both past and present."""
    ids = np.random.default_rng(0).integers(0, VOCAB_SIZE, 20)
    graph = Graph(folder)
    expected, _ = graph(ids)
    for lengths in ([20], [8, 7, 1, 4], [1] * 20):
        assert np.abs(with_shared_buffer(graph, ids, lengths) - expected[0, -1]).max() < 1e-4


def with_shared_buffer(graph: Graph, ids: np.ndarray, lengths: list[int]) -> np.ndarray:
    """Return the last logits of `ids`, run in chunks of these lengths."""
    binding = graph.session.io_binding()
    past = graph.session.get_inputs()[2:]
    # Their first content does not matter. The list keeps them alive: a binding of onnxruntime 1.23 does not.
    shape = [1, NUM_KV_HEADS, 50, HEAD_DIM]
    buffers = [ort.OrtValue.ortvalue_from_numpy(np.full(shape, 7, dtype=np.float32)) for _ in past]
    for node, buffer in zip(past, buffers, strict=True):
        binding.bind_ortvalue_input(node.name, buffer)
        binding.bind_ortvalue_output(node.name.replace("past_key_values", "present"), buffer)
    binding.bind_output("logits")
    filled = 0
    for length in lengths:
        chunk = ids[None, filled : filled + length]
        filled += length
        binding.bind_cpu_input("input_ids", np.ascontiguousarray(chunk))
        binding.bind_cpu_input("attention_mask", np.ones((1, filled), dtype=np.int64))
        graph.session.run_with_iobinding(binding)
    return binding.get_outputs()[-1].numpy()[0, -1]
