"""The time of a token, node by node, from ONNX Runtime's own profiler.

The profiler makes a token slower, and adds some microseconds to the time of every node. The graph's smallest nodes show
how many, and these are subtracted. This leaves an error of a few percent if nodes are short, so the time of a token
without the profiler is shown beside the sum.
"""

from __future__ import annotations

import json
import re
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llama3_models.errors import Llama3Error

from llama3_runtime.model import Model

# The name of a node begins with its place in the model and ends with a suffix that makes it unique.
_LAYER = re.compile(r"\blayers\.\d+")
_UNIQUE = re.compile(r"_node_\d+|(_\d+)*_kernel_time$")

# The profile needs 500 bytes per node and token, and ONNX Runtime keeps at most a million events.
_MOST_TOKENS = 64
_MOST_EVENTS = 1_000_000

# In this graph they compute one or two numbers, in less than a microsecond.
_SMALLEST_OPS = frozenset({"Mod", "Neg", "Range", "Squeeze", "Sub", "Unsqueeze"})


@dataclass(frozen=True)
class NodeTime:
    """The nodes of one kind, in all layers together.

    Attributes:
        node: Their name, without the layer's number.
        op: Their operator.
        calls: How often they run per token.
        microseconds: Their time per token, without what the profiler adds.
    """

    node: str
    op: str
    calls: float
    microseconds: float


@dataclass(frozen=True)
class TokenProfile:
    """The time of one token, in microseconds.

    Attributes:
        tokens: Number of tokens in the average.
        without_profiler: Time of a token without the profiler: nodes, the gaps between them, and Python.
        nodes: The nodes by kind, slowest first.
    """

    tokens: int
    without_profiler: float
    nodes: list[NodeTime]

    @property
    def all_nodes(self) -> float:
        """The time of all nodes together."""
        return sum(node.microseconds for node in self.nodes)


class OpenModel(Protocol):
    """`Model.from_folder` for one model."""

    def __call__(self, *, profile_prefix: Path) -> Model:
        """Load the model with ONNX Runtime's profiler."""


def profile_tokens(model: Model, open_model: OpenModel, *, tokens: int, depth: int) -> TokenProfile:
    """Profile tokens that are evaluated one by one.

    Args:
        model: The model without the profiler; its cache has room for `depth` and `tokens`.
        open_model: Loads the same model with the profiler.
        tokens: Number of tokens, 64 at most; as many run first and do not count.
        depth: Number of tokens already in the cache.

    Raises:
        Llama3Error: the model cannot be loaded or run, or the profile is full.
    """
    tokens = min(tokens, _MOST_TOKENS)
    without_profiler = _microseconds_a_token(model, tokens=tokens, depth=depth)
    with tempfile.TemporaryDirectory(prefix="llama3-profile-") as folder:
        profiled = open_model(profile_prefix=Path(folder) / "ort")
        _microseconds_a_token(profiled, tokens=tokens, depth=depth)
        try:
            events = json.loads(profiled.end_profile().read_bytes())
        except (OSError, ValueError) as error:
            raise Llama3Error(
                f"{folder}: the profile is incomplete; free some space there, or set TMPDIR to another folder"
            ) from error
    if len(events) >= _MOST_EVENTS:
        raise Llama3Error("ONNX Runtime's profile is full; lower --output-size or --depth, or raise --chunk-size")
    return TokenProfile(tokens, without_profiler, _node_times(events, tokens))


def _microseconds_a_token(model: Model, *, tokens: int, depth: int) -> float:
    model.rewind()
    if depth:
        model.prefill([0] * depth)
    start = 0.0
    for _ in range(2):  # the first run includes first-time costs: pages, threads and allocations
        model.rewind(depth)
        start = time.perf_counter()
        for _ in range(tokens):
            model.forward([0])
    return 1e6 * (time.perf_counter() - start) / tokens


def _node_times(events: Iterable[Mapping[str, Any]], tokens: int) -> list[NodeTime]:
    """Return the times of the last `tokens` runs."""
    runs = sorted(event["ts"] for event in events if event["name"] == "model_run")
    first = runs[-tokens]
    times: dict[tuple[str, str], list[float]] = {}
    smallest: list[float] = []
    for event in events:
        name = str(event["name"])
        if event.get("cat") == "Node" and name.endswith("_kernel_time") and event["ts"] >= first:
            node = _LAYER.sub("layers.*", _UNIQUE.sub("", name))
            op = event["args"]["op_name"]
            times.setdefault((node, op), []).append(event["dur"])
            if op in _SMALLEST_OPS:
                smallest.append(event["dur"])
    own = statistics.median(smallest) if smallest else 0.0
    nodes = [
        NodeTime(node, op, len(each) / tokens, max(sum(each) - own * len(each), 0.0) / tokens)
        for (node, op), each in times.items()
    ]
    return sorted(nodes, key=lambda node: -node.microseconds)
