"""The command `llama3-inspect`."""

from __future__ import annotations

import json as json_format
import os
import sys
from dataclasses import replace
from pathlib import Path

from llama3_models.cli import command_line
from llama3_models.errors import Llama3Error, UsageError
from llama3_models.exports import GRAPH, MANIFEST
from llama3_models.gguf.file_kinds import nothing_there
from llama3_models.hub.listing import MODEL_PAGES
from llama3_models.hub.locate import locate_model

_PLOT_FORMATS = (".png", ".svg", ".pdf")
_USUAL_CONTEXT = 4096


def llama3_inspect(
    model: str,
    *,
    context: int | None = None,
    tensors: bool = False,
    json: bool = False,
    plot: Path | None = None,
    check: bool = False,
) -> int:
    """Show what is in a GGUF, or in an export of one.

    Its architecture, its weights by type and by layer, what each type becomes in a graph, the memory that it takes to
    run, and its tokenizer; of a GGUF that cannot be exported, why. Only the header is read, whatever the model's size;
    but a model that is not on this machine yet is downloaded first, whole.

    Args:
        model: A .gguf file (any part of a split one), the folder of an export, its graph, a name of --list-models, or a
            repository of the Hugging Face Hub.
        context: Positions of the KV cache for which memory is counted (default: 4096, or all that the model has).
        tensors: List every tensor as well.
        json: Print one JSON object, and nothing else.
        check: Read all of it, and fail if a weight is NaN or infinite, or a file of an export is not the one that the
            export wrote.
        plot: Draw bits a weight by layer, and where the bytes are, into this .png, .svg or .pdf file.

    Examples:
        llama3-inspect Llama-3.1-8B-Instruct-Q4_K_M.gguf --context 32768
        llama3-inspect out --check
        llama3-inspect smollm2-135m --plot smollm2.png
    """
    command_line.check_ranges({"context": (context, 1)})
    if plot is not None and plot.suffix.lower() not in _PLOT_FORMATS:
        raise UsageError(f"--plot: expected a name that ends in {', '.join(_PLOT_FORMATS)}, not {str(plot)!r}")
    # Heavy imports wait until the command line is known to be right, and a download until the picture can be drawn.
    from llama3_exporter.inspect import plot as picture
    from llama3_exporter.inspect import report

    if plot is not None:
        picture.check_plot(plot)
    path = locate_model(model)
    if path.suffix == ".onnx" and not path.exists():
        raise Llama3Error(f"{path}: {nothing_there(path)}")
    is_export = path.suffix == ".onnx" or _is_export(path)
    if is_export:
        from llama3_exporter.inspect.export import inspect_export

        found = inspect_export(path)
    else:
        from llama3_exporter.inspect.gguf import inspect_gguf

        found = inspect_gguf(path)
    if context is None:
        context = found.usual_context(_USUAL_CONTEXT)
    found.check_context(context)
    if plot is not None:
        picture.check_weights(found)
    if check:
        found = replace(found, check=_check(path, is_export=is_export))
    if json:
        # In ASCII alone, whatever the encoding of the output: its own escapes are not those of JSON.
        print(json_format.dumps(report.as_json(found, context, tensors=tensors), indent=2))
    else:
        print(report.page(found, context, tensors=tensors))
    if plot is not None:
        picture.plot(found, plot)
        print(f"Wrote {plot}", file=sys.stderr)
    return 0


def _check(path: Path, *, is_export: bool) -> str:
    from llama3_exporter.inspect.check import check_export, check_gguf
    from llama3_exporter.progress import byte_progress

    with byte_progress("checking") as progress:
        return (check_export if is_export else check_gguf)(path, progress)


def _is_export(path: Path) -> bool:
    """Whether it is the folder of an export, be its graph a broken link or gone."""
    return path.is_dir() and any(os.path.lexists(path / name) for name in (GRAPH, MANIFEST))


def main() -> int:
    """Entry point of the console script."""
    return command_line.run(llama3_inspect, name="llama3-inspect", pages=MODEL_PAGES)
