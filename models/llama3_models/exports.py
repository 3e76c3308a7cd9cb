"""Names and options that the exporter and the runtime share: the files of an export, and the choices for making it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

from llama3_models.errors import Llama3Error

GRAPH: Final = "model.onnx"
"""The graph in an export folder."""

WEIGHTS: Final = "model.onnx.data"
"""The weights of a contrib export; if there are several files, the names of later ones end in their numbers."""

WEB_FOLDER: Final = "onnx"
WEBGPU_GRAPH: Final = f"{WEB_FOLDER}/model_q4.onnx"
WASM_GRAPH: Final = f"{WEB_FOLDER}/model.onnx"
"""The two graphs of `--target web`, where transformers.js looks for the types q4 and fp32."""

WEB_WEIGHTS: Final = {graph: f"{graph.removeprefix(f'{WEB_FOLDER}/')}_data" for graph in (WEBGPU_GRAPH, WASM_GRAPH)}
"""The weights beside each of the two: the same bytes. Names of later files end in their numbers."""

MANIFEST: Final = "llama3.json"
"""The manifest of an export, as a file in its folder."""

METADATA_KEY: Final = "llama3"
"""The key of the same manifest in the graph's metadata (`manifest.py`)."""

DEFAULT_MAX_LENGTH: Final = 512
"""The default number of positions in a KV cache: enough for a short text, whatever the model's context."""

Ops: TypeAlias = Literal["contrib", "native"]
"""ONNX Runtime's own ops with repacked weights, or ours with the GGUF's bytes."""

Activations: TypeAlias = Literal["int8", "float32"]
"""Whether linears quantize their input to int8 per block, as in llama.cpp, or keep float32."""

Precision: TypeAlias = Literal["fp32", "fp16"]
"""`fp16`: attention, KV cache and the linears that lose nothing compute in float16 (contrib, for CUDA)."""

Logits: TypeAlias = Literal["last", "all", "selected"]
"""The positions that get logits: the last real one of a row, all, or the last `logits_to_keep` ones (an input)."""


Target: TypeAlias = Literal["any", "web"]
"""The apps that an export is for: any ONNX Runtime app, or browsers and transformers.js."""


def graph_in(folder: Path) -> Path:
    """Return where the graph of an export folder is, or should be: of the two for the web, the one for WebGPU."""
    is_for_web = (folder / WEB_FOLDER).is_dir() and not (folder / GRAPH).is_file()
    return folder / (WEBGPU_GRAPH if is_for_web else GRAPH)


def folder_of(graph: Path) -> Path:
    """Return the export folder that a graph is in, which has the manifest and the tokenizer."""
    folder = graph.parent
    in_web_folder = folder.name == WEB_FOLDER and (folder.parent / MANIFEST).is_file()
    return folder.parent if in_web_folder and not (folder / MANIFEST).exists() else folder


def check_choice(name: str, value: object, choices: Any) -> None:
    """Check that a value is one of the choices of a Literal, such as those above.

    Raises:
        Llama3Error: the value is not one of them.
    """
    if value not in get_args(choices):
        raise Llama3Error(f"{name} must be one of {', '.join(get_args(choices))}, not {str(value)[:40]!r}")
