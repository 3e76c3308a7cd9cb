"""A picture of a model: bits per weight by layer, and where its bytes are. It needs matplotlib."""

from __future__ import annotations

import io
import os
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from llama3_models.errors import Llama3Error
from llama3_models.terminal import visible
from llama3_models.units import format_bytes

from llama3_exporter.folder import publish_file
from llama3_exporter.inspect.inspection import Inspection, Role, Weight, total, totals

_COLOURS: dict[Role, str] = {"embedding": "#4c72b0", "attention": "#dd8452", "MLP": "#55a868", "head": "#8172b3"}
_OUTSIDE: tuple[Role, ...] = ("embedding", "head")  # outside the layers; norms and others are too small to draw
_GREY, _BLACK = "#9aa5b1", "#2f3640"
_OTHERS: dict[Role, str] = {"norms": _GREY, "other": _GREY}
_MOST_TICKS = 20


def check_plot(path: Path) -> None:
    """Refuse to plot without matplotlib, without a folder, or in place of something that is not a plain file.

    Raises:
        Llama3Error: matplotlib is not installed or does not work, `path` is not a plain file, or its folder is missing.
    """
    if find_spec("matplotlib") is None:
        raise Llama3Error("--plot: matplotlib is not installed; run pip install matplotlib")
    try:
        import_module("matplotlib.figure")
    # The import also loads matplotlib's dependencies and settings, which may raise errors of any type.
    except Exception as error:
        raise Llama3Error(f"--plot: matplotlib does not load ({str(error)[:120]}); repair it or omit --plot") from error
    _target(path)


def check_weights(found: Inspection) -> None:
    """Refuse to plot a model without weights.

    Raises:
        Llama3Error: it has none.
    """
    if not found.weights:
        raise Llama3Error(f"{found.path}: has no weights to draw; omit --plot")


def plot(found: Inspection, path: Path) -> None:
    """Draw the picture, in the format that the ending of `path` names.

    Raises:
        Llama3Error: the file cannot be written.
    """
    from matplotlib import rc_context

    with warnings.catch_warnings(), rc_context({"text.usetex": False}):  # LaTeX may be missing
        warnings.simplefilter("ignore")  # the font may lack characters of a name
        content = _picture(found, path.suffix[1:].lower())
    publish_file(_target(path), content, "--plot")


def _target(path: Path) -> Path:
    """Return the file to write; a symlink stays, and its target is written.

    Raises:
        Llama3Error: it would replace something that is not a plain file, or its folder is missing.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if os.path.lexists(target) and not target.is_file():
        raise Llama3Error(f"{path}: not a plain file, so it is not replaced; use another path for --plot")
    if not target.parent.is_dir():
        raise Llama3Error(f"{path}: there is no folder {target.parent}; create it, or use another path for --plot")
    return target


def _picture(found: Inspection, file_format: str) -> bytes:
    from matplotlib.figure import Figure

    columns = totals(found.weights, _column)
    layers = sorted(column for column in columns if isinstance(column, int))
    # One bar per layer, and one on either side, a little apart.
    sides = {"embedding": -1.5, "head": len(layers) + 0.5}
    places: dict[int | Role, float] = {role: sides[role] for role in _OUTSIDE if role in columns}
    places |= {layer: float(i) for i, layer in enumerate(layers)}
    colours: dict[Role, str] = _COLOURS
    if not places:  # no layers, embedding or head
        places, colours = {role: float(i) for i, role in enumerate(columns) if isinstance(role, str)}, _OTHERS
    xs = list(places.values())

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    whole = total(found.weights)
    title = f"{visible(found.name)}: {format_bytes(whole.bytes)}, {whole.bits:.2f} bits per weight"
    figure.suptitle(title, parse_math=False)  # a file name may contain dollar signs
    above, below = figure.subplots(2, 1, sharex=True)
    above.bar(xs, [columns[column].bits for column in places], color=_GREY, label=_label(found))
    if whole.contrib_bits is not None:
        contrib = [columns[column].contrib_bits for column in places]
        above.plot(xs, contrib, "_", color=_BLACK, markersize=6, markeredgewidth=2, label="in a contrib graph")
    above.set_ylabel("bits per weight")

    floor = [0.0] * len(places)
    for role, colour in colours.items():
        own = totals([weight for weight in found.weights if weight.role == role], _column)
        heights = [own[column].bytes / 1e6 if column in own else 0.0 for column in places]
        if any(heights):
            label = f"{role} {sum(heights) * 1e6 / whole.bytes:.1%}"
            below.bar(xs, heights, bottom=floor, color=colour, label=label)
            floor = [low + height for low, height in zip(floor, heights, strict=True)]
    below.set_ylabel("MB")
    below.set_xlabel("layer")
    step = -(-len(layers) // _MOST_TICKS)
    ticks = [column for column in places if isinstance(column, str) or places[column] % step == 0]
    below.set_xticks([places[column] for column in ticks], ["emb." if c == "embedding" else str(c) for c in ticks])
    for axes in (above, below):
        axes.set_ylim(0, axes.get_ylim()[1] * 1.2)  # room for the legend
        axes.legend(loc="upper left", ncols=4, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, format=file_format, dpi=150)
    return content.getvalue()


def _label(found: Inspection) -> str:
    return "in the GGUF" if found.manifest is None else "in the export"


def _column(weight: Weight) -> int | Role:
    """Return the bar that a weight belongs to."""
    return weight.role if weight.layer is None else weight.layer
