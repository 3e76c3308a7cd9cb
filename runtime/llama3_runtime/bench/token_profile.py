"""Where the time of a token goes, node by node, as ONNX Runtime's own profiler has it.

The profiler makes a token slower, and counts some microseconds of its own bookkeeping into the time of every node. How
many, the graph's smallest nodes tell; they are taken off again, which leaves an error of some percent where nodes are
short. So a token's time without the profiler stands beside the sum.
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

# Names of nodes begin with their place in the model and end with what makes them unique.
_LAYER = re.compile(r"\blayers\.\d+")
_UNIQUE = re.compile(r"_node_\d+|(_\d+)*_kernel_time$")

# A node takes 500 bytes of the profile's file for each token, and ONNX Runtime keeps no more events than these.
_MOST_TOKENS = 64
_MOST_EVENTS = 1_000_000

# On a number or two, in this graph: less than a microsecond.
_SMALLEST_OPS = frozenset({"Mod", "Neg", "Range", "Squeeze", "Sub", "Unsqueeze"})


@dataclass(frozen=True)
class NodeTime:
    """The nodes of one kind, in all layers together.

    Attributes:
        node: Their name, without the layer's number.
        op: Their operator.
        calls: How many there are to a token.
        microseconds: What they take of a token, without the profiler's own share.
    """

    node: str
    op: str
    calls: float
    microseconds: float


@dataclass(frozen=True)
class TokenProfile:
    """One token's time, in microseconds.

    Attributes:
        tokens: On average of how many.
        without_profiler: A token as it is: nodes, what is between them, and Python.
        nodes: What takes part in it, the longest first.
    """

    tokens: int
    without_profiler: float
    nodes: list[NodeTime]

    @property
    def all_nodes(self) -> float:
        """What the nodes take together."""
        return sum(node.microseconds for node in self.nodes)


class OpenModel(Protocol):
    """`Model.from_folder` of a certain model."""

    def __call__(self, *, profile_prefix: Path) -> Model:
        """Load it with ONNX Runtime's profiler."""


def profile_tokens(model: Model, open_model: OpenModel, *, tokens: int, depth: int) -> TokenProfile:
    """Profile tokens that are evaluated one by one.

    Args:
        model: Without the profiler; its cache holds `depth` and `tokens` positions.
        open_model: Loads the same with it.
        tokens: How many, 64 at most; as many come before and do not count.
        depth: Tokens that are in the cache before.

    Raises:
        Llama3Error: The model cannot be loaded or run, or the profile has no room.
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
                f"{folder}: the profile was not written whole; free some space there, or set TMPDIR to another folder"
            ) from error
    if len(events) >= _MOST_EVENTS:
        raise Llama3Error("ONNX Runtime's profile is full; give fewer tokens, or less depth in larger chunks")
    return TokenProfile(tokens, without_profiler, _node_times(events, tokens))


def _microseconds_a_token(model: Model, *, tokens: int, depth: int) -> float:
    model.rewind()
    if depth:
        model.prefill([0] * depth)
    start = 0.0
    for _ in range(2):  # the first time pays for pages, threads and allocations
        model.rewind(depth)
        start = time.perf_counter()
        for _ in range(tokens):
            model.forward([0])
    return 1e6 * (time.perf_counter() - start) / tokens


def _node_times(events: Iterable[Mapping[str, Any]], tokens: int) -> list[NodeTime]:
    """Of the last `tokens` runs."""
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
