"""However a prompt is split into chunks, the logits are the same, and the cache has exactly the requested length.

Expected values come from the numpy reference, which tests/models/test_reference.py compares with llama.cpp.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from llama3_exporter import export
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile
from llama3_models.reference import forward
from llama3_runtime.model import Model, find_graph

from tests.support.graphs import kl_divergence
from tests.support.llama_gguf import write_llama_gguf

CONTEXT = 96
TYPES = {"output.weight": T.Q6_K, "*.ffn_down.weight": T.Q6_K, "*": T.Q4_K}


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    return write_llama_gguf(path, num_heads=8, num_kv_heads=2, context_length=CONTEXT, types=TYPES)


@pytest.fixture(scope="module")
def folders(gguf: Path) -> dict[str, Path]:
    for activations in ("float32", "int8"):
        export(gguf, gguf.parent / activations, activations=activations)
    export(gguf, gguf.parent / "all", activations="float32", logits="all")
    export(gguf, gguf.parent / "selected", activations="float32", logits="selected")
    return {name: gguf.parent / name for name in ("float32", "int8", "all", "selected")}


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 320, CONTEXT)


@pytest.fixture(scope="module")
def expected(gguf: Path, ids: np.ndarray) -> np.ndarray:
    with GGUFFile.open(gguf) as file:
        return forward(file, ids)


def every_position(folder: Path, ids: np.ndarray, chunk_size: int) -> np.ndarray:
    """Return the logits at each position, from a prompt that ends there, evaluated in chunks of `chunk_size`."""
    model = Model.from_folder(folder, max_length=CONTEXT, chunk_size=chunk_size)
    rows = []
    for end in range(1, len(ids) + 1):
        model.rewind((end - 1) // chunk_size * chunk_size)  # earlier whole chunks stay the same
        rows.append(model.prefill(ids[model.position : end]).copy())
    return np.stack(rows)


@pytest.mark.parametrize("chunk_size", [1, 7, 64, CONTEXT])
def test_chunks_steps_and_a_whole_pass_are_the_reference(
    folders: dict[str, Path], ids: np.ndarray, expected: np.ndarray, chunk_size: int
) -> None:
    """The longest prompt fills the context exactly."""
    found = every_position(folders["float32"], ids, chunk_size)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_with_int8_chunks_differ_by_flipped_roundings_alone(folders: dict[str, Path], ids: np.ndarray) -> None:
    whole, chunks, steps = (every_position(folders["int8"], ids, size) for size in (CONTEXT, 7, 1))
    for other in (chunks, steps):
        assert kl_divergence(whole, other) <= 1e-4
        difference = np.abs(whole - other).max(axis=-1)
        top = np.sort(whole, axis=-1)
        lead = top[:, -1] - top[:, -2]
        same = whole.argmax(-1) == other.argmax(-1)
        assert (same | (lead < 2 * difference)).all()


@pytest.mark.parametrize("mode", ["all", "selected"])
def test_rows_of_logits_by_export(folders: dict[str, Path], ids: np.ndarray, expected: np.ndarray, mode: str) -> None:
    model = Model.from_folder(folders[mode], max_length=CONTEXT)
    rows = model.forward(ids[:20], keep=5 if mode == "selected" else None)
    kept = expected[:20] if mode == "all" else expected[15:20]
    np.testing.assert_allclose(rows, kept, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(model.prefill(ids[20:30]), expected[29], atol=1e-5 * np.abs(expected).max())


def test_the_cache_is_as_long_as_asked_and_not_longer(folders: dict[str, Path], ids: np.ndarray) -> None:
    model = Model.from_folder(folders["float32"], max_length=10)
    assert model.kv_cache_bytes == 2 * 2 * 2 * 10 * 32 * 4  # layers, K and V, heads, positions, head_dim, float32
    model.prefill(ids[:10])
    assert model.position == 10
    with pytest.raises(Llama3Error, match=r"11 tokens .* KV cache of 10 positions"):
        model.forward(ids[:1])


def test_a_rewound_cache_is_as_good_as_new(folders: dict[str, Path], ids: np.ndarray, expected: np.ndarray) -> None:
    model = Model.from_folder(folders["float32"], max_length=CONTEXT)
    model.prefill(ids[::-1])
    model.rewind()
    np.testing.assert_allclose(model.prefill(ids[:50]), expected[49], atol=1e-5 * np.abs(expected).max())
    with pytest.raises(ValueError, match="not in 0"):
        model.rewind(51)


def test_by_default_a_short_context_is_all_of_it(folders: dict[str, Path]) -> None:
    assert Model.from_folder(folders["float32"]).max_length == CONTEXT


@pytest.mark.parametrize("max_length", [0, -1, CONTEXT + 1])
def test_max_length_is_within_the_export(folders: dict[str, Path], max_length: int) -> None:
    with pytest.raises(Llama3Error, match=rf"in 1 \.\. {CONTEXT}"):
        Model.from_folder(folders["float32"], max_length=max_length)


def forged(change):
    """Return a kind of damage that keeps the graph's metadata, and changes one of its inputs or outputs."""

    def damage(folder: Path) -> None:
        import onnx

        model = onnx.load(folder / "model.onnx", load_external_data=False)
        change({node.name: node for node in (*model.graph.input, *model.graph.output)})
        onnx.save(model, folder / "model.onnx")

    return damage


def rename(nodes, name: str) -> None:
    nodes[name].name = "another"


def make_symbolic(nodes, name: str, axis: int) -> None:
    nodes[name].type.tensor_type.shape.dim[axis].dim_param = "any"


DAMAGES = {
    "symbolic heads": forged(lambda nodes: make_symbolic(nodes, "past_key_values.1.value", 1)),
    "symbolic head length": forged(lambda nodes: make_symbolic(nodes, "past_key_values.0.key", 3)),
    "no weights": lambda folder: (folder / "model.onnx.data").unlink(),
    "short weights": lambda folder: (folder / "model.onnx.data").write_bytes(b"1234"),
    "no graph": lambda folder: (folder / "model.onnx").unlink(),
    "half a graph": lambda folder: (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:5000]),
    "another graph": lambda folder: write_identity(folder / "model.onnx"),
}


def write_identity(path: Path) -> None:
    from onnx import TensorProto, helper, save

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_folder_is_one_clear_error(folders: dict[str, Path], tmp_path: Path, damage: object) -> None:
    folder = tmp_path / "out"
    shutil.copytree(folders["int8"], folder)
    damage(folder)
    with pytest.raises(Llama3Error, match=str(folder)):
        Model.from_folder(folder, max_length=10)


@pytest.mark.parametrize("content", [None, b"not a library"])
def test_a_library_that_is_none(folders: dict[str, Path], tmp_path: Path, content: bytes | None) -> None:
    library = tmp_path / "libops.so"
    if content is not None:
        library.write_bytes(content)
    with pytest.raises(Llama3Error, match="librar"):
        Model.from_folder(folders["int8"], max_length=10, custom_ops_path=library)


def test_a_folder_without_a_graph_names_the_gguf_in_it(tmp_path: Path) -> None:
    with pytest.raises(Llama3Error, match=r"no model\.onnx in this folder; .*llama3-export"):
        find_graph(tmp_path)
    (tmp_path / "b.gguf").touch()
    with pytest.raises(Llama3Error, match=rf"no model\.onnx in this folder; .*{tmp_path / 'b.gguf'}$"):
        find_graph(tmp_path)
