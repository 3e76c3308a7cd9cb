"""`--verify` passes a correct export and fails one whose weights are wrong in plausible ways."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from llama3_exporter import export
from llama3_exporter.verify import verify
from llama3_models.architectures import ARCHITECTURES
from llama3_models.digests import fingerprint
from llama3_models.errors import Llama3Error

Tensors = dict[str, np.ndarray]
SaneLlama = Callable[..., Path]

Q = "layers.1.self_attn.q_proj.parts.0"
K = "layers.1.self_attn.k_proj.parts.0"


def zero_a_correction(tensors: Tensors) -> None:
    tensors["layers.1.mlp.down_proj.remainder"][:] = 0


def shift_scales_by_a_block(tensors: Tensors) -> None:
    scales = tensors["layers.1.mlp.gate_proj.parts.0.scales"]
    scales[:] = np.roll(scales, 1)


def permute_rows_of_q_and_k(tensors: Tensors) -> None:
    """Use the order of Hugging Face's checkpoints, which rotate the halves of a head, not neighbors."""
    for name, tensor in tensors.items():
        if name.startswith((Q, K, Q.replace("parts.0", "remainder"), K.replace("parts.0", "remainder"))):
            heads = tensor.reshape(-1, 32, 2, *tensor.shape[1:])  # heads of 64
            tensor[:] = heads.swapaxes(1, 2).reshape(tensor.shape)


MUTATIONS = [zero_a_correction, shift_scales_by_a_block, permute_rows_of_q_and_k]


@pytest.fixture(scope="module", params=["int8", "float32"])
def right_export(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sane_llama: SaneLlama
) -> Path:
    folder = tmp_path_factory.mktemp("exports") / request.param
    export(sane_llama("Q4_K_M"), folder, activations=request.param)
    return folder


@pytest.mark.parametrize("kind", ["Q4_K_M", "Q6_K", "Q2_K", "Q3_K_M", "Q5_K_M", "Q4_0", "Q8_0"])
@pytest.mark.parametrize("activations", ["int8", "float32"])
def test_a_right_export_passes(sane_llama: SaneLlama, tmp_path: Path, kind: str, activations: str) -> None:
    export(sane_llama(kind), tmp_path / "out", activations=activations)
    result = verify(tmp_path / "out", sane_llama(kind))
    assert result.passed, result
    if activations == "float32":
        assert result.graph.distance.top1_agreement == 1


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - {"llama"}))
@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_a_right_export_of_another_architecture_passes(
    sane_llama: SaneLlama, tmp_path: Path, architecture: str, ops: str
) -> None:
    gguf = sane_llama("Q4_K_M", architecture=architecture)
    export(gguf, tmp_path / "out", ops=ops)
    assert verify(tmp_path / "out", gguf).passed


@pytest.mark.parametrize("ops", ["contrib", "native"])
@pytest.mark.parametrize(
    ("architecture", "layer", "mutation"),
    [("qwen2", "q_proj.bias", 0.0), ("qwen3", "q_norm.weight", 1.0), ("qwen3", "k_norm.weight", 1.0)],
)
def test_an_export_without_what_its_architecture_adds_fails(
    sane_llama: SaneLlama, tmp_path: Path, architecture: str, ops: str, layer: str, mutation: float
) -> None:
    gguf = sane_llama("Q4_K_M", architecture=architecture)
    export(gguf, tmp_path / "out", ops=ops)
    model = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False)
    (tensor,) = (t for t in model.graph.initializer if t.name == f"layers.1.self_attn.{layer}")
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(tensor.dims, mutation, np.float32), tensor.name))
    onnx.save(model, tmp_path / "out" / "model.onnx")
    assert not verify(tmp_path / "out", gguf).passed


@pytest.mark.parametrize("ops", ["contrib", "native"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_export_that_rotates_other_pairs_fails(
    sane_llama: SaneLlama, tmp_path: Path, architecture: str, ops: str
) -> None:
    gguf = sane_llama("Q4_K_M", architecture=architecture)
    export(gguf, tmp_path / "out", ops=ops)
    model = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False)
    rotations = [a for node in model.graph.node for a in node.attribute if a.name == "rotary_interleaved"]
    assert {attribute.i for attribute in rotations} == {int(architecture == "llama")}
    for attribute in rotations:
        attribute.i = 1 - attribute.i
    onnx.save(model, tmp_path / "out" / "model.onnx")
    assert not verify(tmp_path / "out", gguf).passed


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_wrong_export_fails(
    right_export: Path, sane_llama: SaneLlama, tmp_path: Path, mutation: Callable[[Tensors], None]
) -> None:
    folder = tmp_path / "wrong"
    shutil.copytree(right_export, folder)
    mutation(writable_tensors(folder))
    take_for_its_own_weights(folder)
    result = verify(folder, sane_llama("Q4_K_M"))
    assert not result.passed, result


@pytest.mark.parametrize("content", [b"", b"somebody's model", None], ids=["empty", "no graph", "none"])
def test_what_is_no_export_is_one_line(sane_llama: SaneLlama, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    problem = "cannot be read" if content is None else ".*; export the GGUF again$"
    with pytest.raises(Llama3Error, match=f"^{tmp_path / 'model.onnx'}: {problem}"):
        verify(tmp_path, sane_llama("Q4_K_M"))


def test_an_export_without_its_weights_is_one_line(right_export: Path, sane_llama: SaneLlama, tmp_path: Path) -> None:
    shutil.copy(right_export / "model.onnx", tmp_path)
    with pytest.raises(Llama3Error, match=r"model\.onnx: ONNX Runtime .* cannot load this graph; export the GGUF"):
        verify(tmp_path, sane_llama("Q4_K_M"))


def take_for_its_own_weights(folder: Path) -> None:
    """Record the changed weights in the manifest, as an exporter that packs wrongly would."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    (entry,) = (entry for entry in model.metadata_props if entry.key == "llama3")
    manifest = json.loads(entry.value)
    for file in manifest["weights"]:
        file["fingerprint"] = fingerprint(folder / file["name"])
    entry.value = json.dumps(manifest)
    onnx.save(model, folder / "model.onnx")


def writable_tensors(folder: Path) -> Tensors:
    """Map every external tensor of the graph as an array: writing to it changes the weights file."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    tensors = {}
    for tensor in model.graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if place:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            tensors[tensor.name] = np.memmap(
                folder / place["location"], dtype, "r+", int(place["offset"]), tuple(tensor.dims)
            )
    return tensors
