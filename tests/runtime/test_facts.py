"""What a graph says of itself is read without trust: damaged or forged, it is one line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from llama3_exporter import export
from llama3_models.errors import Llama3Error
from llama3_runtime.facts import Facts, Part
from llama3_runtime.model import Model

from tests.support.llama_gguf import write_llama_gguf

GRAPH = Path("model.onnx")


def of_metadata(metadata: dict[str, str]) -> Facts:
    session = SimpleNamespace(get_modelmeta=lambda: SimpleNamespace(custom_metadata_map=metadata))
    return Facts.of_session(GRAPH, session)


def described(**changes: Any) -> str:
    facts = {"options": {"max_length": 99}, "source": {"parts": [{"name": "a.gguf", "size": 7, "fingerprint": "0a"}]}}
    return json.dumps({**facts, **changes})


def test_what_the_exporter_writes_is_read() -> None:
    assert of_metadata({"llama3": described()}) == Facts(99, (Part("a.gguf", 7, "0a"),))
    without_fingerprint = {"parts": [{"name": "a.gguf", "sha256": "ff"}]}
    assert of_metadata({"llama3": described(source=without_fingerprint)}).parts == (Part("a.gguf", None, None),)


def test_a_graph_of_somebody_else() -> None:
    with pytest.raises(Llama3Error, match="no graph of llama3-export"):
        of_metadata({"producer": "another"})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "[" * 100_000,
        "7" * 5_000,
        described(options=[]),
        described(options={"max_length": float("inf")}),
        described(options={"max_length": None}),
        described(options={"max_length": -1}),
        described(source=None),
        described(source={"parts": []}),
        described(source={"parts": 3}),
        described(source={"parts": "ab"}),
        described(source={"parts": [["name"]]}),
        described(source={"parts": [{"name": 3}]}),
        described(source={"parts": [{"name": "../../a.gguf"}]}),
        described(source={"parts": [{"name": "/dev/zero"}]}),
    ],
)
def test_damaged_facts_are_one_line(text: str) -> None:
    with pytest.raises(Llama3Error, match=r"^model\.onnx: damaged metadata [^\n]{1,230}; export the GGUF again$"):
        of_metadata({"llama3": text})


def test_metadata_of_a_real_graph_that_are_no_text(tmp_path: Path) -> None:
    """ONNX Runtime hands them over as bytes that Python cannot decode."""
    export(write_llama_gguf(tmp_path / "model.gguf", num_layers=1), tmp_path / "out")
    graph = tmp_path / "out" / "model.onnx"
    graph.write_bytes(graph.read_bytes().replace(b'"producer"', b'"produc\xffr"'))
    with pytest.raises(Llama3Error, match="damaged metadata"):
        Model.from_folder(tmp_path / "out")
