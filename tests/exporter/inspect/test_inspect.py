"""The facts of `llama3-inspect` agree with the gguf package and with the files of real exports."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Literal, get_args

import gguf
import numpy as np
import onnx
import pytest
from gguf import GGMLQuantizationType as T
from llama3_exporter import export
from llama3_exporter.inspect.export import inspect_export
from llama3_exporter.inspect.gguf import inspect_gguf
from llama3_exporter.inspect.inspection import Inspection, total, totals
from llama3_models.exports import Ops

from tests.support.inspecting import run
from tests.support.llama_gguf import linear_scales, llama31_rope_factors, split_gguf, write_llama_gguf
from tests.support.vocabularies import smollm2_gguf

MIXED = {"*.attn_v.weight": T.Q6_K, "*.ffn_down.weight": T.Q8_0, "token_embd.weight": T.F16, "*": T.Q4_K}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several types, biases, scaled rotation, a separate head."""
    path = tmp_path_factory.mktemp("gguf") / "mixed.gguf"
    return write_llama_gguf(
        path, types=MIXED, num_layers=3, attention_bias=True, rope_factors=llama31_rope_factors(64)[:32]
    )


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama_gguf(tmp_path_factory.mktemp("gguf") / "tied.gguf", types=T.Q5_K, tied=True)


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama_gguf(tmp_path_factory.mktemp("gguf") / "floats.gguf", types=T.BF16)


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Equal layers, of a type whose zero points are the same in all blocks."""
    path = tmp_path_factory.mktemp("gguf") / "alike.gguf"
    return write_llama_gguf(path, types=T.Q6_K, num_layers=3, tied=True)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Zero points of 4 and of 8 bits, longer for later weights, so a file has several of each."""
    types = {"*.attn_?.weight": T.Q3_K, "*.ffn_down.weight": T.Q4_0, "output.weight": T.Q3_K, "*": T.Q8_0}
    path = tmp_path_factory.mktemp("gguf") / "filled.gguf"
    return write_llama_gguf(path, types=types, vocab_size=1024, attention_bias=True)


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scales beside the weights."""
    path = tmp_path_factory.mktemp("gguf") / "qwen2.gguf"
    return write_llama_gguf(path, architecture="qwen2", types=MIXED, rope_theta=1e6, vectors=linear_scales())


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads that are longer than the hidden size divided by their number."""
    path = tmp_path_factory.mktemp("gguf") / "qwen3.gguf"
    return write_llama_gguf(path, architecture="qwen3", types=MIXED, head_dim=128, tied=True)


# GGUFs


def test_a_gguf_is_what_the_gguf_package_reads() -> None:
    found = inspect_gguf(smollm2_gguf())
    reader = gguf.GGUFReader(smollm2_gguf())
    assert [(w.name, w.form, w.bytes, w.shape) for w in found.weights] == [
        (t.name, t.tensor_type.name, t.n_bytes, tuple(map(int, t.shape[::-1]))) for t in reader.tensors
    ]
    parameters = sum(int(math.prod(t.shape)) for t in reader.tensors)
    assert total(found.weights).bits == 8 * sum(t.n_bytes for t in reader.tensors) / parameters
    numbers = found.architecture
    for key, value in {
        "block_count": numbers.num_hidden_layers,
        "embedding_length": numbers.hidden_size,
        "feed_forward_length": numbers.intermediate_size,
        "attention.head_count": numbers.num_attention_heads,
        "attention.head_count_kv": numbers.num_key_value_heads,
        "context_length": numbers.max_position_embeddings,
        "rope.freq_base": numbers.rope_theta,
    }.items():
        assert reader.fields[f"llama.{key}"].contents() == value, key
    assert numbers.tie_word_embeddings
    assert found.tokenizer is not None
    assert found.tokenizer.chat_template == reader.fields["tokenizer.chat_template"].contents()
    types = Counter(reader.fields["tokenizer.ggml.token_type"].contents())
    assert not types[gguf.TokenType.USER_DEFINED] + types[gguf.TokenType.UNKNOWN]
    assert found.tokenizer.special == types[gguf.TokenType.CONTROL]
    assert found.tokenizer.pre_tokenizer == reader.fields["tokenizer.ggml.pre"].contents()


def test_special_tokens_are_all_that_a_text_may_spell_out(tmp_path: Path) -> None:
    """The unknown token is also found by its text."""
    found = inspect_gguf(with_odd_tokens(tmp_path / "model.gguf"))
    assert found.tokenizer is not None
    assert found.tokenizer.special == 3 + 2


def with_odd_tokens(path: Path) -> Path:
    """Write a model whose first two tokens have unusual types."""
    write_llama_gguf(path, num_layers=1)
    data = path.read_bytes()
    types = data.index(b"tokenizer.ggml.token_type") + len(b"tokenizer.ggml.token_type") + 4 + 4 + 8
    odd = [gguf.TokenType.UNKNOWN, gguf.TokenType.USER_DEFINED]
    assert data[types : types + 8] == np.array([1, 1], np.int32).tobytes()
    path.write_bytes(data[:types] + np.array(odd, np.int32).tobytes() + data[types + 8 :])
    return path


def test_parts_and_layers(mixed: Path) -> None:
    found = inspect_gguf(mixed)
    by_role = totals(found.weights, lambda weight: weight.role)
    assert {role: own.tensors for role, own in by_role.items()} == {
        "embedding": 1, "other": 1, "norms": 7, "attention": 24, "MLP": 9, "head": 1,
    }  # fmt: skip
    assert {w.layer for w in found.weights if w.role in ("attention", "MLP")} == {0, 1, 2}
    assert found.architecture.rope_scaling == "a factor for each frequency"


@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        ({}, "none"),
        ({"type": "linear", "factor": 2.0}, "linear by 2"),
        ({"type": "yarn"}, "none"),
        (
            {"type": "yarn", "factor": 4.0, "original_context_length": 2048},
            "YaRN by 4 from 2,048 positions, attention factor 1.139",
        ),
        ({"attn_factor": 1.5}, "attention factor 1.5"),
    ],
)
def test_the_scaling_of_positions_in_words(scaling: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = write_llama_gguf(tmp_path / "model.gguf", rope_scaling=scaling)
    assert inspect_gguf(path).architecture.rope_scaling == words


def test_a_split_model_is_one(mixed: Path, tmp_path: Path) -> None:
    parts = split_gguf(mixed, tmp_path, max_tensors=10)
    found = inspect_gguf(parts[1])
    assert Counter(w.name for w in found.weights) == Counter(w.name for w in inspect_gguf(mixed).weights)
    assert f"in {len(parts)} files" in found.about["format"]


# Exports


@pytest.mark.parametrize("source", ["mixed", "tied", "floats", "alike", "filled", "qwen2", "qwen3", "smollm2"])
def test_memory_and_weights_of_a_contrib_graph_are_those_of_a_real_one(
    source: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The memory calculated from a GGUF's header is the memory that its export needs."""
    path = smollm2_gguf() if source == "smollm2" else request.getfixturevalue(source)
    before = inspect_gguf(path)
    summary = export(path, tmp_path / "out")
    after = inspect_export(tmp_path / "out")
    expected = next(memory for memory in before.memory if memory.ops == "contrib")
    assert after.memory[0].weights == summary.memory_bytes
    assert expected.weights == summary.memory_bytes
    assert after.memory[0].kv_cache_per_position == summary.kv_cache_bytes_per_position
    assert expected.kv_cache_per_position == summary.kv_cache_bytes_per_position
    same_model(before, after)

    # Names differ, so compare everything but the names.
    was = Counter((w.layer, w.role, w.contrib_form, w.shape, w.contrib_bytes) for w in before.weights)
    now = Counter((w.layer, w.role, w.form, w.shape, w.bytes) for w in after.weights)
    assert {key[1] for key in was - now} <= {"other"}  # rotation factors become tables
    assert {key[1:4] for key in now - was} <= {("other", "shared zero points", (0,))}


@pytest.mark.parametrize("activations", ["int8", "float32"])
def test_shared_zero_points_belong_to_no_layer(
    capsys: pytest.CaptureFixture[str], alike: Path, activations: Literal["int8", "float32"], tmp_path: Path
) -> None:
    """A file has them once. If they counted for the first layer, equal layers would look different."""
    export(alike, tmp_path / "out", activations=activations)
    # An 8-bit code and a float32 scale per 16 codes; or two 4-bit codes, with two scales.
    bits = {"int8": 8 + 32 / 16, "float32": 8 + 2 * 32 / 16}[activations]
    found = inspect_export(tmp_path / "out")
    matrices = [weight for weight in found.weights if len(weight.shape) == 2]
    assert {own.bits for own in totals(matrices, lambda weight: weight.name).values()} == {bits}
    (zero_points,) = (weight for weight in found.weights if weight.role == "other")
    assert (zero_points.layer, zero_points.parameters, total([zero_points]).bits) == (None, 0, 0)
    page = run(capsys, tmp_path / "out")[1]
    assert " in all 3 layers" in page
    assert re.search(r"^  shared zero points +1 +0 .* -$", page, re.MULTILINE)
    assert re.search(r"^  other .*%$", page, re.MULTILINE)
    assert "in a contrib graph" not in page
    assert activations != "int8" or f"{bits:.2f}: 8-bit blocks of 16" in run(capsys, alike)[1]


def test_the_page_names_the_architecture(capsys: pytest.CaptureFixture[str], qwen3: Path, tmp_path: Path) -> None:
    export(qwen3, tmp_path / "out")
    for path in (qwen3, tmp_path / "out"):
        page = run(capsys, path)[1]
        assert re.search(r"^  name +qwen3$", page, re.MULTILINE)
        assert re.search(r"^  attention +4 heads of 128 elements, 2 ", page, re.MULTILINE)
        assert json.loads(run(capsys, path, "--json")[1])["architecture"]["name"] == "qwen3"


def same_model(gguf_: Inspection, export_: Inspection) -> None:
    """Check that both have the same numbers, and as many weights in each layer and part."""
    numbers = vars(gguf_.architecture) | {"rope_theta": None, "rope_scaling": None}
    assert vars(export_.architecture) == numbers

    def counts(found: Inspection) -> dict[object, int]:
        groups = totals((w for w in found.weights if w.role != "other"), lambda weight: (weight.layer, weight.role))
        return {key: own.parameters for key, own in groups.items()}

    assert counts(export_) == counts(gguf_)
    assert export_.tokenizer is not None
    assert gguf_.tokenizer is not None
    assert vars(export_.tokenizer) == vars(gguf_.tokenizer)


@pytest.mark.parametrize("options", [{"activations": "float32"}, {"precision": "fp16"}], ids=str)
@pytest.mark.parametrize("source", ["mixed", "tied", "floats", "qwen2", "qwen3"])
def test_other_options_are_the_same_model(
    source: str, options: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(source)
    summary = export(path, tmp_path / "out", **options)
    after = inspect_export(tmp_path / "out")
    same_model(inspect_gguf(path), after)
    assert after.memory[0].weights == pytest.approx(summary.memory_bytes, rel=0.001)
    assert after.memory[0].kv_cache_per_position == summary.kv_cache_bytes_per_position


@pytest.mark.parametrize("source", ["mixed", "tied", "floats", "qwen2", "qwen3"])
def test_a_native_export_is_the_gguf(source: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "model.gguf"
    shutil.copy(request.getfixturevalue(source), path)
    before = inspect_gguf(path)
    summary = export(path, tmp_path / "out", ops="native")
    export(path, ops="native")  # and the graph beside it
    for where in (tmp_path / "out", tmp_path / "out" / "model.onnx", tmp_path / "model.onnx"):
        after = inspect_export(where)
        same_model(before, after)
        forms = {w.form for w in before.weights if len(w.shape) == 2}
        assert {w.form for w in after.weights if len(w.shape) == 2} == forms
        assert after.memory[0].weights == pytest.approx(summary.memory_bytes, rel=0.01)
        assert after.memory[0].kv_cache_type == "float16"


def test_ops_are_all_counted(mixed: Path, tmp_path: Path) -> None:
    for ops in get_args(Ops):
        summary = export(mixed, tmp_path / ops, ops=ops)
        nodes = onnx.load(summary.output / "model.onnx", load_external_data=False).graph.node
        text = inspect_export(summary.output).about["ops"]
        *named, rest = text.split(", ")
        counts = {name: int(count) for name, count in (entry.split(":") for entry in named)}
        assert counts == Counter(node.op_type for node in nodes if node.domain)
        assert f" {sum(not node.domain for node in nodes)} " in rest


@pytest.mark.parametrize("ops", get_args(Ops))
@pytest.mark.parametrize("where", ["in its folder", "beside its GGUF"])
def test_a_tokenizer_that_cannot_be_used_is_a_warning_of_the_gguf_and_of_its_export(
    where: str, ops: Ops, tmp_path: Path
) -> None:
    path = write_llama_gguf(tmp_path / "model.gguf", num_layers=1)
    path.write_bytes(path.read_bytes().replace(b"in g", b"in q"))  # "inq" is not a token
    (of_gguf,) = inspect_gguf(path).warnings
    of_export = warnings_of(path, where, ops, tmp_path)
    assert [warning.partition(" (")[0] for warning in of_export] == [of_gguf.partition(" (")[0]]
    assert "tokenizer" in of_gguf
    assert "--tokenizer-path" in of_gguf


@pytest.mark.parametrize("where", ["in its folder", "beside its GGUF"])
def test_a_gguf_without_a_tokenizer_is_a_warning_of_its_native_export(where: str, tmp_path: Path) -> None:
    path = write_llama_gguf(tmp_path / "model.gguf", num_layers=1, tokenizer=None)
    for (warning,) in (warnings_of(path, where, "native", tmp_path), inspect_gguf(path).warnings):
        assert "no tokenizer; " in warning
        assert "--tokenizer-path" in warning


def warnings_of(path: Path, where: str, ops: Ops, tmp_path: Path) -> tuple[str, ...]:
    """Return the warnings about an export of `path`."""
    if where == "in its folder":
        return inspect_export(export(path, tmp_path / "out", ops=ops).output).warnings
    return inspect_export(export(path, ops="native").output).warnings


def test_an_export_without_its_weights_or_tokenizer_says_so(mixed: Path, tmp_path: Path) -> None:
    """A graph alone can be inspected; notes name the files that are not beside it."""
    export(mixed, tmp_path / "out")
    assert inspect_export(tmp_path / "out").warnings == ()
    shutil.copy(tmp_path / "out" / "model.onnx", tmp_path / "alone.onnx")
    tokenizer, weights = inspect_export(tmp_path / "alone.onnx").warnings
    assert tokenizer.startswith(f"{tmp_path}: ")
    assert "--tokenizer-path" in tokenizer
    assert weights.startswith("model.onnx.data")
    assert "not beside the graph" in weights


def test_weights_that_are_cut_off_become_a_note(tied: Path, tmp_path: Path) -> None:
    export(tied, tmp_path / "out")
    weights = tmp_path / "out" / "model.onnx.data"
    size = weights.stat().st_size
    for length in (size - 1, 0):
        os.truncate(weights, length)
        (warning,) = inspect_export(tmp_path / "out").warnings
        assert warning.startswith("model.onnx.data ")
        assert f" {length:,} of the {size:,} bytes" in warning


# The command


@pytest.mark.parametrize("source", ["mixed", "tied", "smollm2"])
def test_a_page_fits_a_terminal(
    capsys: pytest.CaptureFixture[str], source: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    gguf_ = smollm2_gguf() if source == "smollm2" else request.getfixturevalue(source)
    path = tmp_path / "m.gguf"
    path.symlink_to(gguf_)
    export(path, tmp_path / "out", activations="float32")
    for model in (path, tmp_path / "out"):
        status, out, err = run(capsys, model, "--tensors")
        assert (status, err) == (0, "")
        assert max(map(len, out.splitlines())) <= 80
        assert out.splitlines()[0] == model.name
        for heading in ("Architecture", "Weights", "Where the bytes are", "Memory for", "Tokenizer", "Tensors"):
            assert f"\n{heading}" in out


def test_the_page_has_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """The page has the figures of the README and the docs."""
    _, out, _ = run(capsys, smollm2_gguf(), "--context", 512)
    for text in (
        "134.5 M in 272 tensors, 96.6 MB, 5.74 bits each",
        "Q4_1     210 106.2 M  66.4 MB 68.7%  5.00   6.12: 4-bit blocks of 32 + sums",
        "native        98.4 MB    11.8 MB float16    110.2 MB",
        "contrib      115.9 MB    23.6 MB float32    139.5 MB",
        "<|endoftext|> (0), <|im_end|> (2)",
    ):
        assert text in out, out
    assert "blk." not in out


def test_tensors_are_listed_layer_by_layer(capsys: pytest.CaptureFixture[str]) -> None:
    """The file has its layers in the order 0, 1, 10, 11, ..."""
    layers = [weight.layer for weight in inspect_gguf(smollm2_gguf()).weights if weight.layer is not None]
    assert layers != sorted(layers)
    _, out, _ = run(capsys, smollm2_gguf(), "--tensors")
    assert re.findall(r"^  layer (\d+)$", out, re.MULTILINE) == [str(layer) for layer in range(30)]


def test_the_help_says_that_a_name_is_downloaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert "downloaded first" in " ".join(run(capsys, "--help")[1].split())


def test_json_is_the_same_as_data(capsys: pytest.CaptureFixture[str], mixed: Path) -> None:
    _, out, _ = run(capsys, mixed, "--json", "--context", 100)
    data = json.loads(out)
    native, contrib = data["memory"]
    per_position = 2 * 3 * 2 * 64  # keys and values, layers, heads, elements
    assert native["total"] == mixed.stat().st_size + 100 * per_position * 2
    assert contrib["total"] == contrib["weights"] + 100 * per_position * 4
    assert sum(form["parameters"] for form in data["forms"]) == data["weights"]["parameters"]
    assert sum(role["bytes"] for role in data["roles"].values()) == data["weights"]["bytes"]
    assert list(data["layers"]) == ["0", "1", "2"]
    assert "tensors" not in data
    data = json.loads(run(capsys, mixed, "--json", "--tensors")[1])
    assert len(data["tensors"]) == data["weights"]["tensors"]
    assert data["path"] == str(mixed)
    for tensor in data["tensors"]:
        assert list(tensor) == [
            "name", "layer", "role", "form", "shape", "bytes", "contrib_form", "contrib_bytes"
        ]  # fmt: skip


def test_a_terminal_acts_on_no_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_llama_gguf(tmp_path / "model.gguf", num_layers=1)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"<|eot_id|>", b"<\x1b[2J\x07\x08|>x"))
    status, out, _ = run(capsys, path)
    assert status == 0
    assert "\x1b" not in out
    assert "\\x1b[2J\\x07\\x08" in out


def test_json_is_json_whatever_the_encoding(tied: Path, tmp_path: Path) -> None:
    path = tmp_path / "é😀.gguf"
    path.symlink_to(tied)
    program = "import sys; from llama3_exporter.commands.inspect import main; sys.exit(main())"
    out = subprocess.run(
        [sys.executable, "-c", program, str(path), "--json"],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    assert json.loads(out)["path"] == str(path)


def test_a_long_name_is_cut(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    name = "n" * 3_000_000
    path = with_extra(write_llama_gguf(tmp_path / "plain.gguf", num_layers=1), tmp_path / "model.gguf", name=name)
    page = run(capsys, path)[1]
    assert re.search(r"\bn{60,}", page)
    assert len(page) < 5000
    assert json.loads(run(capsys, path, "--json")[1])["about"]["name"] == name


@pytest.mark.parametrize("name", ["blk.attn_rot_embd.weight", "blk.0.attn_rot_embd.weight"])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_tables_of_old_converters_are_no_weights(tied: Path, tmp_path: Path, name: str, dtype: type) -> None:
    """The exporter ignores them, so no export contains them."""
    path = with_extra(tied, tmp_path / "model.gguf", tensor=(name, np.ones(4, dtype)))
    assert name in {tensor.name for tensor in gguf.GGUFReader(path).tensors}
    assert inspect_gguf(path).weights == inspect_gguf(tied).weights
    export(path, tmp_path / "out")


def with_extra(
    source: Path, path: Path, *, name: str | None = None, tensor: tuple[str, np.ndarray] | None = None
) -> Path:
    """Write a copy of a GGUF with another name or one more tensor."""
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(path, "llama")
    for field in reader.fields.values():
        if field.name == "general.architecture" or field.name.startswith("GGUF."):
            continue
        if field.name == "general.name" and name is not None:
            continue
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type)
    if name is not None:
        writer.add_name(name)
    for old in reader.tensors:
        writer.add_tensor(old.name, old.data, raw_dtype=old.tensor_type)
    if tensor is not None:
        writer.add_tensor(*tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
