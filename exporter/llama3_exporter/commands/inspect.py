"""The command `llama3-inspect`."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from llama3_models.cli import command_line
from llama3_models.errors import Llama3Error, UsageError
from llama3_models.exports import GRAPH, MANIFEST, WEBGPU_GRAPH
from llama3_models.gguf.file_kinds import nothing_there
from llama3_models.hub.listing import MODEL_PAGES
from llama3_models.hub.locate import locate_model
from llama3_models.terminal import notice, show, show_json
from llama3_models.units import format_bytes

logger = logging.getLogger(__name__)

_PLOT_FORMATS = (".png", ".svg", ".pdf")
_USUAL_CONTEXT = 4096


def llama3_inspect(
    model: str | None = None,
    *,
    context: int | None = None,
    tensors: bool = False,
    json: bool = False,
    plot: Path | None = None,
    check: bool = False,
    cache: bool = False,
    remove: tuple[str, ...] = (),
) -> int:
    """Show what is in a GGUF or an export.

    The page shows the architecture, the weights by type and layer, what each type becomes in a graph, the memory needed
    to run, and the tokenizer. If a GGUF cannot be exported, it shows the reason. Only the header is read, whatever the
    model's size, but a model that is not on this machine is downloaded first.

    Args:
        model: A .gguf file (any part of a split one), an export folder or its graph, a name from --list-models, or a
            Hugging Face Hub repository. (required, except with --cache)
        context: Size of the KV cache in tokens to calculate memory for. (default: 4096, or the model's context if that
            is shorter)
        tensors: Also list every tensor.
        json: Print only a JSON object.
        check: Read the whole model, and fail if a weight is NaN or infinite, or if a file of an export has changed.
        plot: Plot bits per weight by layer, and where the bytes are, to this .png, .svg or .pdf file. (default: none)
        cache: Instead of showing a MODEL, list the exports that llama3-run has cached.
        remove: With --cache, remove these entries: the name of one, the path of a model, old or all.

    Examples:
        llama3-inspect Llama-3.1-8B-Instruct-Q4_K_M.gguf --context 32768
        llama3-inspect out --check
        llama3-inspect smollm2-135m --plot smollm2.png
        llama3-inspect --cache --remove old
    """
    if cache:
        if model is not None or tensors or check or plot is not None or context is not None:
            raise UsageError("--cache can only be used with --remove and --json")
        return _inspect_cache(remove, json=json)
    if remove:
        raise UsageError("--remove needs --cache")
    if model is None:
        raise UsageError("missing MODEL")
    command_line.check_ranges({"context": (context, 1)})
    if plot is not None and plot.suffix.lower() not in _PLOT_FORMATS:
        raise UsageError(f"--plot: expected a name that ends in {', '.join(_PLOT_FORMATS)}, not {str(plot)!r}")
    # Heavy imports come after the command line has been checked, a download after the check that plotting works.
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
        show_json(report.as_json(found, context, tensors=tensors), indent=2)
    else:
        show(*report.page(found, context, tensors=tensors).split("\n"))
    if plot is not None:
        picture.plot(found, plot)
        notice(f"Wrote {plot}")
    return 0


def _inspect_cache(remove: tuple[str, ...], *, json: bool) -> int:
    """List the cache or remove entries; return 1 if an entry could not be removed."""
    from llama3_exporter.inspect import cache

    found = cache.read_cache()
    if not remove:
        if json:
            show_json(cache.as_json(found), indent=2)
        else:
            show(*cache.page(found))
        return 0
    removed, kept = [], {}
    for entry in dict.fromkeys(entry for what in remove for entry in cache.select(found, what)):
        try:
            cache.remove(entry.name)
        except Llama3Error as error:
            kept[entry.name] = str(error)
            logger.warning("%s", error)
        else:
            removed.append(entry)
    if json:
        show_json({"removed": [entry.name for entry in removed], "kept": kept}, indent=2)
    else:
        lines = [f"Removed {entry.name}, {format_bytes(entry.bytes)}" for entry in removed]
        show(*lines, f"{len(removed)} removed, {format_bytes(sum(entry.bytes for entry in removed))}")
    return 1 if kept else 0


def _check(path: Path, *, is_export: bool) -> str:
    from llama3_exporter.inspect.check import check_export, check_gguf
    from llama3_exporter.progress import byte_progress

    with byte_progress("checking") as progress:
        return (check_export if is_export else check_gguf)(path, progress)


def _is_export(path: Path) -> bool:
    """Return whether a path is an export folder, even if its graph is missing or a broken link."""
    return path.is_dir() and any(os.path.lexists(path / name) for name in (GRAPH, WEBGPU_GRAPH, MANIFEST))


def main() -> int:
    """Run the console script."""
    return command_line.run(llama3_inspect, name="llama3-inspect", pages=MODEL_PAGES)
