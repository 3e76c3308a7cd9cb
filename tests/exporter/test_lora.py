"""A graph with LoRA adapters equals the reference, which tests/models/test_lora.py compares with llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from gguf import GGMLQuantizationType as T
from llama3_exporter import export, export_model
from llama3_exporter.inspect.export import inspect_export
from llama3_exporter.verify import verify
from llama3_models.digests import sha256
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile
from llama3_models.lora import parse_loras, read_adapters
from llama3_models.manifest import AdapterUse, Manifest
from llama3_models.reference import forward
from llama3_models.terminal import show

from tests.support.graphs import Graph, kl_divergence
from tests.support.llama_gguf import fuse_qkv, linear_scales, write_llama_gguf
from tests.support.lora_gguf import write_lora

CASES: dict[str, tuple[dict[str, Any], list[dict[str, Any]], list[float]]] = {
    "rank 1": ({"num_heads": 8}, [{"rank": 1, "alpha": 1.0}], [1.0]),
    "rank 3, Q4_K": ({"types": T.Q4_K, "attention_bias": True}, [{"rank": 3}], [0.7]),
    "two, Q6_K": ({"types": T.Q6_K, "num_kv_heads": 1}, [{"rank": 16}, {"rank": 3, "seed": 1}], [0.5, -0.2]),
    "Qwen2, float16": ({"architecture": "qwen2"}, [{"rank": 16, "type_": T.F16}], [1.0]),
    "Qwen3, Q8_0": (
        {"architecture": "qwen3", "head_dim": 48, "tied": True, "types": T.Q8_0},
        [{"rank": 32, "type_": T.Q8_0}],
        [1.0],
    ),
    "odd sizes, bfloat16": (
        {"hidden_size": 96, "num_heads": 3, "num_kv_heads": 1, "intermediate_size": 224, "vocab_size": 333},
        [{"rank": 5, "type_": T.BF16}],
        [1.0],
    ),
    "scales, bfloat16": ({"vectors": linear_scales(), "types": T.BF16}, [{"rank": 3}], [1.0]),
    "v and the head alone": ({"types": T.Q4_0}, [{"weights": ["blk.1.attn_v", "output"]}], [2.0]),
    "the embedding alone": ({"types": T.Q8_0}, [{"weights": ["token_embd"]}], [2.0]),
}


def random_ids(count: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 320, count)


def expected_logits(gguf: Path, lora: Sequence[str | Path], ids: np.ndarray) -> np.ndarray:
    with GGUFFile.open(gguf) as file:
        return forward(file, ids, adapters=read_adapters(parse_loras(lora), file))


@pytest.mark.parametrize("ops", ["contrib", "native"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_adapters_run_beside_the_weights(tmp_path: Path, case: Any, ops: str) -> None:
    shape, adapters, scales = case
    gguf = write_llama_gguf(tmp_path / "model.gguf", **shape)
    lora = [
        f"{write_lora(tmp_path / f'{i}.gguf', gguf, **options)}:{scale}"
        for i, (options, scale) in enumerate(zip(adapters, scales, strict=True))
    ]
    export(gguf, tmp_path / "out", ops=ops, activations="float32", logits="all", lora=lora)
    ids = random_ids()
    expected = expected_logits(gguf, lora, ids)
    found, _ = Graph(tmp_path / "out")(ids)
    assert np.abs(found[0] - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(expected_logits(gguf, [], ids) - expected).max() > 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize("options", [{"precision": "fp16"}, {}, {"ops": "native"}], ids=str)
def test_adapters_stay_in_float32_beside_coarser_linears(tmp_path: Path, options: dict[str, Any]) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf", types=T.Q8_0)
    lora = [write_lora(tmp_path / "lora.gguf", gguf, rank=16, type_=T.F16)]
    export(gguf, tmp_path / "out", logits="all", lora=lora, **options)
    assert verify(tmp_path / "out", gguf, lora=lora).passed
    ids = random_ids()
    found, _ = Graph(tmp_path / "out")(ids)
    assert kl_divergence(expected_logits(gguf, lora, ids), found[0]) < 2e-2


@pytest.mark.parametrize("ops", ["contrib", "native"])
@pytest.mark.parametrize("type_", [T.F32, T.Q8_0])
def test_an_adapter_of_fused_q_k_and_v(tmp_path: Path, type_: T, ops: str) -> None:
    plain = write_llama_gguf(tmp_path / "plain.gguf", types=T.Q4_K, attention_bias=True)
    gguf = fuse_qkv(plain, tmp_path / "fused.gguf")
    lora = [write_lora(tmp_path / "lora.gguf", gguf, rank=32, type_=type_)]
    export(gguf, tmp_path / "out", ops=ops, activations="float32", logits="all", lora=lora)
    ids = random_ids()
    expected = expected_logits(gguf, lora, ids)
    found, _ = Graph(tmp_path / "out")(ids)
    assert np.abs(found[0] - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf", types=T.Q8_0)


@pytest.fixture(scope="module")
def lora(gguf: Path) -> Path:
    return write_lora(gguf.with_name("lora.gguf"), gguf)


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_verify_sees_a_scale_that_is_lost(gguf: Path, lora: Path, tmp_path: Path, ops: str) -> None:
    export(gguf, tmp_path / "out", ops=ops, lora=[f"{lora}:1"])
    model = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False)
    (entry,) = (entry for entry in model.metadata_props if entry.key == "llama3")
    entry.value = entry.value.replace('"scale": 1.0', '"scale": 0.5')
    onnx.save(model, tmp_path / "out" / "model.onnx")
    assert not verify(tmp_path / "out", gguf, lora=[f"{lora}:0.5"]).passed
    with pytest.raises(Llama3Error, match=r"other adapters \(lora.gguf:0.5\)"):
        verify(tmp_path / "out", gguf)


def test_verify_wants_the_very_adapters_of_the_export(gguf: Path, lora: Path, tmp_path: Path) -> None:
    """A different file with the same name, shapes and scale is refused; the same file may have another name."""
    export(gguf, tmp_path / "out", ops="native", lora=[lora])
    (tmp_path / "other").mkdir()
    other = write_lora(tmp_path / "other" / "lora.gguf", gguf, seed=1)
    with pytest.raises(Llama3Error, match=r"other adapters \(lora.gguf:1\)"):
        verify(tmp_path / "out", gguf, lora=[other])
    other.write_bytes(lora.read_bytes())
    assert verify(tmp_path / "out", gguf, lora=[other.rename(tmp_path / "renamed.gguf")]).passed


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_a_scale_of_0_leaves_the_graph_as_it_is(gguf: Path, lora: Path, tmp_path: Path, ops: str) -> None:
    for name, adapters in (("without", []), ("with", [f"{lora}:0"])):
        export(gguf, tmp_path / name, ops=ops, lora=adapters)
    graphs = [onnx.load(tmp_path / name / "model.onnx", load_external_data=False).graph for name in ("without", "with")]
    assert graphs[0] == graphs[1]


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_weights_keep_their_names_beside_adapters(gguf: Path, lora: Path, tmp_path: Path, ops: str) -> None:
    names = []
    for name, adapters in (("without", []), ("with", [lora])):
        export(gguf, tmp_path / name, ops=ops, lora=adapters)
        graph = onnx.load(tmp_path / name / "model.onnx", load_external_data=False).graph
        names.append({tensor.name for tensor in graph.initializer})
    added = {name for name in names[1] - names[0] if name.endswith(".weight")}
    assert {name for name in names[0] if "weight" in name} <= names[1]
    assert "layers.1.mlp.down_proj.adapters.0.lora_a.weight" in added
    assert "layers.0.self_attn.k_proj.adapters.0.lora_b.weight" in added
    assert len(added) == 2 * (2 * 7 + 2)


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_an_export_says_which_adapters_it_has(gguf: Path, lora: Path, tmp_path: Path, ops: str) -> None:
    summary = export(gguf, tmp_path / "out", ops=ops, lora=[f"{lora}:-0.5", lora])
    uses = [AdapterUse("lora.gguf", lora.stat().st_size, sha256(lora), scale) for scale in (-0.5, 1.0)]
    assert list(Manifest.of_folder(tmp_path / "out").adapters) == uses
    assert [line for line in summary.lines() if "adapter" in line] == [
        "  adapter  lora.gguf, scale -0.5",
        "  adapter  lora.gguf, scale 1",
    ]
    found = inspect_export(tmp_path / "out")
    assert found.about["adapters"] == "lora.gguf (scale -0.5), lora.gguf (scale 1)"
    assert found.memory[0].weights == pytest.approx(summary.memory_bytes, rel=0.01)
    export(gguf, tmp_path / "plain", ops=ops)
    assert Manifest.of_folder(tmp_path / "plain").adapters == ()
    assert "adapters" not in json.loads((tmp_path / "plain" / "llama3.json").read_text())


def test_an_adapter_that_is_given_twice_lies_in_the_weights_file_once(gguf: Path, lora: Path, tmp_path: Path) -> None:
    sizes = []
    for count in (1, 2):
        export(gguf, tmp_path / str(count), lora=[lora] * count)
        sizes.append((tmp_path / str(count) / "model.onnx.data").stat().st_size)
    assert sizes[0] == sizes[1]


def test_adapters_lie_in_shards_like_other_weights(gguf: Path, lora: Path, tmp_path: Path) -> None:
    export(gguf, tmp_path / "out", lora=[lora], shard_size=500_000, logits="all", activations="float32")
    assert (tmp_path / "out" / "model.onnx.data_1").exists()
    ids = random_ids()
    expected = expected_logits(gguf, [lora], ids)
    found, _ = Graph(tmp_path / "out")(ids)
    assert np.abs(found[0] - expected).max() < 1e-4 * np.abs(expected).max()


def test_adapters_that_a_native_graph_cannot_hold_are_one_line(
    gguf: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_model, "_MAX_ADAPTER_BYTES", 100_000)
    with pytest.raises(Llama3Error, match=r"the adapters total .* kB, but .* 100\.0 kB; use --ops contrib"):
        export(gguf, tmp_path / "out", ops="native", lora=[lora])
    assert not (tmp_path / "out").exists()
    export(gguf, tmp_path / "out", lora=[lora])


def test_an_adapter_s_name_is_readable_whatever_it_is(
    gguf: Path, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "a\x1b[31m\n.gguf"
    odd.write_bytes(lora.read_bytes())
    summary = export(gguf, tmp_path / "out", lora=[odd])
    assert Manifest.of_folder(tmp_path / "out").adapters[0].name == "a?[31m?.gguf"
    show(*summary.lines())
    assert r"  adapter  a\x1b[31m\n.gguf, scale 1" in capsys.readouterr().out.split("\n")
