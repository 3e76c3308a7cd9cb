"""With the tables of docs/native-ops.md as op schemas, native exports pass onnx's full check."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from gguf import GGMLQuantizationType as T
from llama3_exporter import export
from onnx import defs

from tests.support.llama_gguf import write_llama_gguf
from tests.support.paths import DOCS

PAGE = DOCS / "native-ops.md"
CACHE = ["tensor(float16)", "tensor(float)"]
Schema = defs.OpSchema
ATTRIBUTES = {
    "int": Schema.AttrType.INT,
    "ints": Schema.AttrType.INTS,
    "float": Schema.AttrType.FLOAT,
    "string": Schema.AttrType.STRING,
}


def rows(section: str, head: str) -> list[tuple[str, str, str]]:
    """Return name, `optional`, `several` or nothing, and type of each row of the table whose first column is `head`."""
    (table,) = re.findall(rf"^\| {head} \|.*\n\|[- |]+\n((?:\|.*\n)+)", section, re.MULTILINE) or [""]
    return re.findall(r"^\| `(\w+)`(?: \((\w+)\))? \| ([\w ]+) \|", table, re.MULTILINE)


def parameters(section: str, head: str) -> list[defs.OpSchema.FormalParameter]:
    options = {"": "Single", "optional": "Optional", "several": "Variadic"}
    return [
        Schema.FormalParameter(
            name,
            "Cache" if type_ == "float16 or float" else f"tensor({type_})",
            param_option=getattr(Schema.FormalParameterOption, options[how]),
            is_homogeneous=True,
        )
        for name, how, type_ in rows(section, head)
    ]


@pytest.fixture
def schemas() -> Iterator[set[str]]:
    """Register the page's ops with onnx during a test."""
    parts = re.split(r"^## (\w+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    for name, section in sections.items():
        inputs, outputs = parameters(section, "input"), parameters(section, "output")
        generic = any(parameter.type_str == "Cache" for parameter in inputs)
        schema = Schema(
            name,
            "llama3",
            1,
            inputs=inputs,
            outputs=outputs,
            type_constraints=[("Cache", CACHE, "of the cache")] if generic else [],
            attributes=[
                Schema.Attribute(attribute, ATTRIBUTES[type_], required=how != "optional")
                for attribute, how, type_ in rows(section, "attribute")
            ],
        )
        defs.register_schema(schema)
    yield set(sections)
    for name in sections:
        defs.deregister_schema(name, 1, "llama3")


@pytest.mark.parametrize("place", ["beside the GGUF", "a copy in a folder"])
def test_exports_pass_the_full_check(place: str, schemas: set[str], tmp_path: Path) -> None:
    """The checker refuses hard links, so the folder gets a copy."""
    gguf = write_llama_gguf(tmp_path / "model.gguf", types=T.Q4_K, attention_bias=True)
    if place == "beside the GGUF":
        graph = export(gguf, ops="native").output
    else:
        graph = export(gguf, tmp_path / "out", ops="native", copy=True).output / "model.onnx"
    onnx.checker.check_model(graph, full_check=True)
    model = onnx.load(graph, load_external_data=False)
    assert {node.op_type for node in model.graph.node if node.domain == "llama3"} == schemas
    (version,) = (entry.version for entry in model.opset_import if entry.domain == "llama3")
    assert version == 1


def test_a_node_that_is_not_as_the_page_says_fails_the_check(schemas: set[str], tmp_path: Path) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf", types=T.Q4_K)
    graph = export(gguf, ops="native").output
    model = onnx.load(graph, load_external_data=False)
    norm = next(node for node in model.graph.node if node.op_type == "AddRMSNorm")
    del norm.attribute[:]
    onnx.save(model, graph)
    with pytest.raises(onnx.checker.ValidationError, match="epsilon"):
        onnx.checker.check_model(graph)
