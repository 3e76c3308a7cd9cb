"""`--target web`: both graphs equal the reference, and the ops, files and names are those that browsers need."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from gguf import GGMLQuantizationType as T
from gguf import quants
from llama3_exporter import export, export_model
from llama3_exporter.commands import export as commands
from llama3_exporter.formats import FLOAT_TYPES, FORMATS
from llama3_exporter.inspect.check import check_export
from llama3_exporter.inspect.export import inspect_export
from llama3_exporter.verify import verify
from llama3_models.errors import Llama3Error
from llama3_models.exports import WASM_GRAPH, WEBGPU_GRAPH
from llama3_models.gguf.file import GGUFFile
from llama3_models.lora import parse_loras, read_adapters
from llama3_models.reference import forward
from llama3_runtime import SamplingParams, load

from tests.exporter.test_graph import MIXED, SHAPES
from tests.exporter.test_lora import CASES as LORA_CASES
from tests.support.graphs import Graph
from tests.support.llama_gguf import llama31_rope_factors, write_llama_gguf
from tests.support.lora_gguf import write_lora

GRAPHS = (WEBGPU_GRAPH, WASM_GRAPH)

# The graph that a device of transformers.js loads; any other loads that of None.
DEVICES = {"webgpu": "model_q4.onnx", "wasm": "model.onnx", "cpu": "model.onnx", None: "model_q4.onnx"}

# What neither WebGPU nor WebAssembly has, or only slowly.
MISSING = {"FusedMatMul", "Round"}
MISSING_IN_WASM = {*MISSING, "MatMulNBits", "GatherBlockQuantized"}


def random_ids(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 320, count)


def exported(tmp_path: Path, options: dict[str, Any] | None = None, **shape: Any) -> tuple[Path, Path]:
    gguf = write_llama_gguf(tmp_path / "model.gguf", **shape)
    export(gguf, tmp_path / "out", target="web", **(options or {}))
    return gguf, tmp_path / "out"


def assert_both_equal_the_reference(gguf: Path, folder: Path, ids: np.ndarray, lora: Any = ()) -> None:
    with GGUFFile.open(gguf) as file:
        expected = forward(file, ids, adapters=read_adapters(parse_loras(lora), file), last_only=True)
    for graph in GRAPHS:
        found, cache = Graph(folder / graph)(ids)
        assert {array.dtype for array in (found, *cache.values())} == {np.dtype(np.float32)}
        assert np.abs(found[0] - expected).max() < 1e-4 * np.abs(expected).max(), graph


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_shape(tmp_path: Path, shape: dict[str, Any]) -> None:
    gguf, folder = exported(tmp_path, **shape)
    assert_both_equal_the_reference(gguf, folder, random_ids(40))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("type_", [*FORMATS, *FLOAT_TYPES], ids=lambda type_: type_.name)
def test_every_type(tmp_path: Path, type_: T, tied: bool) -> None:
    gguf, folder = exported(tmp_path, types=type_, tied=tied, num_layers=1)
    assert_both_equal_the_reference(gguf, folder, random_ids(10))


@pytest.mark.parametrize("case", LORA_CASES.values(), ids=LORA_CASES)
def test_adapters(tmp_path: Path, case: tuple[dict[str, Any], list[dict[str, Any]], list[float]]) -> None:
    shape, adapters, scales = case
    gguf = write_llama_gguf(tmp_path / "model.gguf", **shape)
    files = [write_lora(tmp_path / f"{index}.gguf", gguf, **each) for index, each in enumerate(adapters)]
    lora = [f"{file}:{scale}" for file, scale in zip(files, scales, strict=True)]
    export(gguf, tmp_path / "out", target="web", lora=lora)
    assert_both_equal_the_reference(gguf, tmp_path / "out", random_ids(20), lora)


def test_late_positions(tmp_path: Path) -> None:
    shape = {"num_layers": 1, "hidden_size": 64, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 96}
    rope = {"rope_factors": llama31_rope_factors(32), "context_length": 131_072, "rope_theta": 500_000.0}
    gguf, folder = exported(tmp_path, types=T.Q8_0, head_dim=32, **shape, **rope)
    assert_both_equal_the_reference(gguf, folder, random_ids(9_000))


@pytest.mark.parametrize("graph_name", GRAPHS)
def test_a_batch_of_unequal_lengths_then_a_cache(tmp_path: Path, graph_name: str) -> None:
    """transformers.js pads on the left."""
    _, folder = exported(tmp_path, types=MIXED)
    graph = Graph(folder / graph_name)
    prompts = [random_ids(7, seed=1), random_ids(12, seed=2)]
    ids, mask = np.zeros((2, 12), np.int64), np.zeros((2, 12), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, 12 - len(prompt) :], mask[row, 12 - len(prompt) :] = prompt, 1
    logits, cache = graph(ids, mask)
    for step in random_ids(3, seed=4):
        for row, prompt in enumerate(prompts):
            alone, _ = graph(prompt)
            np.testing.assert_allclose(logits[row, -1], alone[0, -1], atol=1e-4)
        prompts = [np.append(prompt, step) for prompt in prompts]
        mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=1)
        logits, cache = graph(np.full((2, 1), step), mask, cache)


@pytest.mark.parametrize(("graph_name", "missing"), [(WEBGPU_GRAPH, MISSING), (WASM_GRAPH, MISSING_IN_WASM)])
def test_no_op_or_type_that_browsers_lack(tmp_path: Path, graph_name: str, missing: set[str]) -> None:
    _, folder = exported(tmp_path, types=MIXED, architecture="qwen3", attention_bias=True)
    model = onnx.load(folder / graph_name, load_external_data=False)
    copied = shutil.copytree(folder, tmp_path / "copy")  # onnx refuses files with two names
    onnx.checker.check_model(copied / graph_name, full_check=True)
    assert not missing & {node.op_type for node in model.graph.node}
    types = {tensor.data_type for tensor in model.graph.initializer}
    types |= {value.type.tensor_type.elem_type for value in model.graph.value_info}
    casts = {a.i for node in model.graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to"}
    assert onnx.TensorProto.DOUBLE not in types | casts
    # Level 4 would round activations to int8 (WebGPU's DP4A kernels too); two parts would read 8 bits as 4 and 4.
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            attributes = {a.name: a.i for a in node.attribute}
            assert attributes["accuracy_level"] == 1
            assert ".parts.1." not in node.name


def optimized(folder: Path) -> onnx.ModelProto:
    """Return the graph for WebAssembly as ONNX Runtime runs it, without a session option of the caller's."""
    copied = shutil.copytree(folder, folder.with_name("copy"))  # onnx refuses files with two names
    target = (copied / WASM_GRAPH).with_name("optimized.onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(str(copied / WASM_GRAPH), options, providers=["CPUExecutionProvider"])
    return onnx.load(target)


@pytest.mark.parametrize("tied", [False, True])
def test_wasm_multiplies_by_constants(tmp_path: Path, tied: bool) -> None:
    """The optimizer leaves nothing of what unpacks the weights, except the rows of the embedding."""
    _, folder = exported(tmp_path, types=MIXED, tied=tied, vocab_size=320)
    model = optimized(folder)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    assert len(products) >= 15
    for node in products:
        assert constants[node.input[1]].data_type == onnx.TensorProto.FLOAT
    assert not {"If", "Transpose", "FusedMatMul"} & {node.op_type for node in model.graph.node}
    large = {name for name, tensor in constants.items() if np.prod(tensor.dims) > 20_000}  # not the rotary tables
    readers = {node.op_type for node in model.graph.node if large & set(node.input)}
    assert readers == {"MatMul", "Gather"}
    if tied:  # the embedding is packed, and the head is the only copy in float32
        (rows,) = {node.input[0] for node in model.graph.node if node.op_type == "Gather"} & large
        assert constants[rows].data_type == onnx.TensorProto.UINT8


@pytest.mark.parametrize("type_", FORMATS, ids=lambda type_: type_.name)
def test_unpacked_weights_are_those_of_the_gguf(tmp_path: Path, type_: T) -> None:
    """Up to the last digit of float32 of each block's largest weight."""
    gguf, folder = exported(tmp_path, types={"blk.0.ffn_down.weight": type_}, num_layers=1, intermediate_size=768)
    with GGUFFile.open(gguf) as file:
        tensor = file.tensors["blk.0.ffn_down.weight"]
        expected = quants.dequantize(np.asarray(tensor.data), type_).reshape(tensor.shape)
    model = optimized(folder)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if "down_proj" in node.name and node.op_type == "MatMul"]
    found, correction = np.zeros_like(expected), 0
    for node in products:
        matrix = constants[node.input[1]].T
        if matrix.shape == expected.shape:
            found = matrix
        else:
            correction = np.repeat(matrix, expected.shape[1] // matrix.shape[1], axis=1)
    largest = np.maximum(np.abs(found), np.abs(correction))
    scale = np.repeat(largest.reshape(len(found), -1, 16).max(axis=2), 16, axis=1)
    assert (np.abs(found + correction - expected) <= 2**-22 * scale).all()


def test_unpacking_needs_little_more_than_the_result(tmp_path: Path) -> None:
    """In one pass it would need 4 to 5 times the result."""
    shape = {"hidden_size": 512, "num_layers": 12, "num_heads": 8, "intermediate_size": 1536, "share_bytes": True}
    _, folder = exported(tmp_path, types=T.Q4_0, **shape)
    script = (
        "import re, sys, onnxruntime as ort\n"
        "status = lambda key: int(re.search(key + r':\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "options = ort.SessionOptions()\n"
        "options.enable_cpu_mem_arena = False\n"
        "before = status('VmRSS')\n"
        "session = ort.InferenceSession(sys.argv[1], options, providers=['CPUExecutionProvider'])\n"
        "print(1024 * (status('VmHWM') - before))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, folder / WASM_GRAPH], capture_output=True, text=True, check=True
    )
    weights = 12 * (2 * 512 * 512 + 2 * 256 * 512 + 3 * 1536 * 512) + 320 * 512
    assert int(run.stdout) < 2.5 * 4 * weights


@pytest.mark.parametrize("shards", [1, 3])
def test_the_layout_of_transformers_js(tmp_path: Path, shards: int) -> None:
    """Its names, and as many files as it is told; both graphs' weights are one file with two names."""
    options = {} if shards == 1 else {"shard_size": 800_000}
    gguf, folder = exported(tmp_path, options, types=MIXED)
    suffixes = ["", "_1", "_2"][:shards]
    data = [f"{name}_data{suffix}" for name in ("model.onnx", "model_q4.onnx") for suffix in suffixes]
    assert {path.name for path in (folder / "onnx").iterdir()} == {"model.onnx", "model_q4.onnx", *data}
    others = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "llama3.json")
    assert {path.name for path in folder.iterdir()} == {"onnx", *others}
    for suffix in suffixes:
        one, other = (folder / "onnx" / f"{name}_data{suffix}" for name in ("model.onnx", "model_q4.onnx"))
        assert one.samefile(other)
    for graph in GRAPHS:
        model = onnx.load(folder / graph, load_external_data=False)
        places = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
        assert places <= {f"{Path(graph).name}_data{suffix}" for suffix in suffixes}

    own = json.loads((folder / "config.json").read_text(encoding="utf-8"))["transformers.js_config"]
    for device, name in DEVICES.items():
        chosen = {**own, **own["device_config"].get(device, {})}  # as transformers.js merges them
        suffix = {"q4": "_q4", "fp32": ""}[chosen["dtype"]]
        assert f"model{suffix}.onnx" == name
        assert chosen["use_external_data_format"][name] == shards
    assert_both_equal_the_reference(gguf, folder, random_ids(10))


def test_a_file_system_without_hard_links_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    gguf, folder = exported(tmp_path, types=T.Q4_0)
    assert not (folder / "onnx/model.onnx_data").samefile(folder / "onnx/model_q4.onnx_data")
    assert_both_equal_the_reference(gguf, folder, random_ids(10))
    assert "byte for byte" in check_export(folder)
    with (folder / "onnx/model.onnx_data").open("r+b") as file:
        file.seek(5000)
        file.write(b"damaged")
    with pytest.raises(Llama3Error, match=r"model\.onnx_data: has changed"):
        check_export(folder)


def test_our_own_commands_take_the_folder(tmp_path: Path) -> None:
    gguf, folder = exported(tmp_path, types=MIXED)
    texts = set()
    for path in (folder, folder / WEBGPU_GRAPH, folder / WASM_GRAPH):
        generator = load(path)
        texts.add(generator.generate("I believe", SamplingParams(max_new_tokens=8, temperature=0)).text)
        assert verify(path, gguf).passed
    assert len(texts) == 1
    inspection = inspect_export(folder)
    assert {weight.name for weight in inspection.weights} >= {"embed_tokens", "lm_head", "layers.1.mlp.down_proj"}
    assert inspection.tokenizer is not None
    assert "byte for byte" in check_export(folder)
    with pytest.raises(Llama3Error, match=r"model\.onnx: the graph for WebAssembly.*inspect that one, or the folder"):
        inspect_export(folder / WASM_GRAPH)


@pytest.mark.parametrize("graph_name", GRAPHS)
def test_a_graph_that_is_missing_is_named(tmp_path: Path, graph_name: str) -> None:
    _, folder = exported(tmp_path, types=T.Q4_0)
    (folder / graph_name).unlink()
    with pytest.raises(Llama3Error, match=rf"{graph_name}: cannot be read \(No such file"):
        check_export(folder)
    if graph_name == WEBGPU_GRAPH:
        with pytest.raises(Llama3Error, match=f"there is no {graph_name} in this folder"):
            load(folder)


def test_the_inner_folder_has_a_graph_too(tmp_path: Path) -> None:
    _, folder = exported(tmp_path, types=T.Q4_0)
    assert "byte for byte" in check_export(folder / "onnx")
    assert load(folder / "onnx").generate("I", SamplingParams(max_new_tokens=1)).text


@pytest.mark.parametrize("damage", ["fewer files", "other weights"])
def test_graphs_of_different_exports_are_refused(tmp_path: Path, damage: str) -> None:
    _, folder = exported(tmp_path, types=T.Q4_0)
    model = onnx.load(folder / WASM_GRAPH, load_external_data=False)
    (entry,) = (entry for entry in model.metadata_props if entry.key == "llama3")
    manifest = json.loads(entry.value)
    if damage == "fewer files":
        manifest["weights"] = []
    else:
        manifest["weights"][0]["sha256"] = "0" * 64
    entry.value = json.dumps(manifest)
    (folder / WASM_GRAPH).write_bytes(model.SerializeToString())
    with pytest.raises(Llama3Error, match=r"model\.onnx: belongs to a different export than model_q4\.onnx"):
        check_export(folder)


def test_weights_that_do_not_fit_a_browser_s_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_model, "_MAX_WEB_FILE_BYTES", 1_000_000)
    gguf = write_llama_gguf(tmp_path / "model.gguf", types=T.Q8_0)
    (warning,) = export(gguf, tmp_path / "out", target="web").warnings
    assert re.match(r"browsers cannot load this model: they hold at most 1\.0 MB in one array, and a weights", warning)
    assert export(gguf, tmp_path / "small", target="web", shard_size=900_000).warnings == ()


def test_force_replaces_it_but_keeps_what_is_not_ours(tmp_path: Path) -> None:
    gguf, folder = exported(tmp_path, types=T.Q4_0)
    with pytest.raises(Llama3Error, match="use --force"):
        export(gguf, folder)
    export(gguf, folder, force=True)
    assert not (folder / "onnx").exists()
    export(gguf, folder, target="web", force=True)
    (folder / "onnx" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(Llama3Error, match=r"onnx/notes\.txt, which no export wrote"):
        export(gguf, folder, force=True)
    assert (folder / "onnx" / "notes.txt").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ops", "native"], "--target web needs --ops contrib"),
        (["--activations", "int8"], "--target web needs --activations float32"),
        (["--precision", "fp16"], "--target web needs --precision fp32"),
        (["--logits", "selected"], "--target web needs --logits last or all"),
        (["--tokenizer-graph"], "--tokenizer-graph is not for --target web"),
        (["--copy"], "--copy is only for --ops native"),
    ],
)
def test_options_that_browsers_do_not_have(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf")
    command = ["llama3-export", str(gguf), "--output", str(tmp_path / "out"), "--target", "web", *options]
    monkeypatch.setattr(sys, "argv", command)
    assert commands.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_logits_of_all_positions(tmp_path: Path) -> None:
    gguf, folder = exported(tmp_path, {"logits": "all"}, types=T.Q8_0)
    ids = random_ids(12)
    with GGUFFile.open(gguf) as file:
        expected = forward(file, ids)
    for graph in GRAPHS:
        found, _ = Graph(folder / graph)(ids)
        np.testing.assert_allclose(found[0], expected, atol=1e-4 * np.abs(expected).max())


def test_more_files_than_transformers_js_loads_are_refused(tmp_path: Path) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf", num_layers=12)
    with pytest.raises(Llama3Error, match="for at most 100 files"):
        export(gguf, tmp_path / "out", target="web", shard_size=1000)


def test_the_summary_says_what_visitors_download_and_need(tmp_path: Path) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf", types=T.Q8_0)
    summary = export(gguf, tmp_path / "out", target="web")
    out = tmp_path / "out"
    common = [out / name for name in ("config.json", "generation_config.json", "tokenizer.json")]
    common += [out / "tokenizer_config.json", out / "onnx/model.onnx_data"]
    shared = sum(path.stat().st_size for path in common)
    sizes = {
        name: (out / graph).stat().st_size for name, graph in (("WebGPU", WEBGPU_GRAPH), ("WebAssembly", WASM_GRAPH))
    }
    assert summary.downloads == {name: size + shared for name, size in sizes.items()}
    weights = sum(use.parameters for use in summary.types.values())
    assert summary.wasm_memory_bytes is not None
    assert summary.wasm_memory_bytes > 4 * weights
    text = "\n".join(summary.lines())
    assert re.search(
        r"in WebAssembly, without the KV cache\n  visitors download .* for WebGPU, .* for WebAssembly", text
    )


def test_a_model_too_large_for_webassembly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_model, "_WASM_BYTES", 1_000_000)
    gguf = write_llama_gguf(tmp_path / "model.gguf", types=T.Q8_0)
    summary = export(gguf, tmp_path / "out", target="web")
    (warning,) = summary.warnings
    assert re.match(r"this model needs WebGPU: WebAssembly can address 1\.0 MB, and there it would need about", warning)
    own = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["transformers.js_config"]
    assert own["device_config"]["cpu"]["dtype"] == "q4"


def test_a_target_of_any_is_not_in_the_manifest(tmp_path: Path) -> None:
    """Exports without --target are as they were."""
    gguf = write_llama_gguf(tmp_path / "model.gguf")
    for target, expected in (("any", None), ("web", "web")):
        export(gguf, tmp_path / target, target=target)
        options = json.loads((tmp_path / target / "llama3.json").read_text(encoding="utf-8"))["options"]
        assert options.get("target") == expected
        assert ("target" in inspect_export(tmp_path / target).about["options"]) == (target == "web")
