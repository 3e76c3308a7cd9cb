"""Holds an export against the GGUF: the graph and a float32 reference of the file see the same tokens.

The tokens are the model's own: drawn one by one from the graph's distribution, so that no tokenizer is needed and
the positions are such as the model meets in use. The distance is the Kullback-Leibler divergence from the
reference's distribution to the graph's, in nats, averaged over positions.

int8 activations cost a few thousandths of a nat, in which a lost correction of one matrix could hide. So the graph
is run once more with its linears switched to float32 activations: over the same weights, that has to be exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama3_custom_ops
import numpy as np
import numpy.typing as npt
import onnx
from llama3_models.divergence import kl_divergence, log_softmax
from llama3_models.errors import Llama3Error
from llama3_models.exports import GRAPH
from llama3_models.gguf.file import GGUFFile
from llama3_models.reference import forward

from llama3_exporter.facts import read_graph
from llama3_exporter.native.modules import DOMAIN

Rows = npt.NDArray[np.float32]
Run = Callable[[list[int], int, Any], tuple[Rows, Any]]

# Mean KL in nats above which an export counts as wrong: as it is, and with float32 activations.
BOUND = 2e-2
EXACT_BOUNDS = {"fp32": 1e-6, "fp16": 1e-3}

_NUM_TOKENS = 48
_NUM_CHUNKS = 3
_NUMPY_TYPES: dict[str, npt.DTypeLike] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True)
class Distance:
    """How far logits are from the reference's over `positions`; the KL divergence is in nats."""

    positions: int
    mean_kl: float
    max_logit_difference: float
    top1_agreement: float
    bound: float

    @property
    def passed(self) -> bool:
        """Whether the mean KL divergence is within the bound (a NaN is not)."""
        return self.mean_kl <= self.bound

    def describe(self) -> str:
        """The figures in a line."""
        return (
            f"mean KL divergence {self.mean_kl:.2e} nats (bound {self.bound:.0e}), largest logit difference "
            f"{self.max_logit_difference:.2e}, top-1 agreement {self.top1_agreement:.1%} of {self.positions} positions"
        )


@dataclass(frozen=True)
class Verification:
    """The graph as it is, and its weights with float32 activations."""

    graph: Distance
    weights: Distance

    @property
    def passed(self) -> bool:
        """Whether both are within their bounds."""
        return self.graph.passed and self.weights.passed


def verify(export: str | Path, gguf: str | Path, *, num_tokens: int = _NUM_TOKENS) -> Verification:
    """Run an export and the float32 reference of its GGUF on the same tokens.

    Args:
        export: The export's folder, or its graph beside the GGUF.
        gguf: The GGUF it was made of.
        num_tokens: Positions to compare, fewer where the export's context is shorter.

    Raises:
        Llama3Error: the export or the GGUF cannot be loaded.
    """
    graph = Path(export) / GRAPH if Path(export).is_dir() else Path(export)
    model, facts = read_graph(graph)
    options = facts["options"]
    exact = EXACT_BOUNDS[options["precision"]]
    ids, from_graph = _draw(_runner(model, graph), min(num_tokens, int(options["max_length"])))
    _use_float32_activations(model)
    positions, from_weights = _last_of_chunks(_runner(model, graph), ids)
    with GGUFFile.open(gguf) as file:
        expected = forward(file, ids)
    return Verification(
        graph=compare(expected, from_graph, bound=BOUND if options["activations"] == "int8" else exact),
        weights=compare(expected[positions], from_weights, bound=exact),
    )


def compare(expected: Rows, found: Rows, *, bound: float) -> Distance:
    """Compare logits [positions, vocab_size] of the reference and of a graph."""
    return Distance(
        positions=len(expected),
        mean_kl=float(np.mean(kl_divergence(expected, found))),
        max_logit_difference=float(np.max(np.abs(expected - found))),
        top1_agreement=float(np.mean(expected.argmax(-1) == found.argmax(-1))),
        bound=bound,
    )


def _draw(run: Run, num_tokens: int) -> tuple[list[int], Rows]:
    """Tokens drawn from the graph's own distribution after token 0, and the logits at each of them."""
    random = np.random.default_rng(0)
    ids, rows, cache = [0], [], None
    for position in range(num_tokens):
        logits, cache = run(ids[-1:], position, cache)
        rows.append(logits[-1])
        probabilities = np.exp(log_softmax(logits[-1]))
        if not np.isfinite(probabilities).all():
            break  # compared as they are: the divergence is then NaN
        ids.append(int(random.choice(probabilities.size, p=probabilities / probabilities.sum())))
    return ids[: len(rows)], np.stack(rows)


def _last_of_chunks(run: Run, ids: list[int]) -> tuple[list[int], Rows]:
    """Run `ids` in a few chunks, as hosts run prompts; the position and the logits of each one's last token."""
    ends = sorted({len(ids) * (i + 1) // _NUM_CHUNKS for i in range(_NUM_CHUNKS)} - {0})
    rows, cache, start = [], None, 0
    for end in ends:
        logits, cache = run(ids[start:end], start, cache)
        rows.append(logits[-1])
        start = end
    return [end - 1 for end in ends], np.stack(rows)


def _runner(model: onnx.ModelProto, graph: Path) -> Run:
    import onnxruntime as ort  # the exporter alone needs none
    from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

    # What ONNX Runtime raises shares no base class but Exception.
    errors: tuple[type[Exception], ...] = tuple(
        kind for kind in vars(ort_state).values() if isinstance(kind, type) and issubclass(kind, Exception)
    )

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(graph.parent))
    try:
        if any(entry.domain == DOMAIN for entry in model.opset_import):
            llama3_custom_ops.register(options)
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except errors as error:
        raise Llama3Error(
            f"{graph}: ONNX Runtime {ort.__version__} cannot load the export; export the GGUF again ({error})"
        ) from error
    past_nodes = [node for node in session.get_inputs() if node.name.startswith("past_key_values.")]
    empty = [np.zeros((1, node.shape[1], 0, node.shape[3]), dtype=_NUMPY_TYPES[node.type]) for node in past_nodes]
    outputs = ["logits", *(node.name.replace("past_key_values", "present") for node in past_nodes)]

    def run(ids: list[int], position: int, cache: Any) -> tuple[Rows, Any]:
        feed = {
            "input_ids": np.array([ids], dtype=np.int64),
            "attention_mask": np.ones((1, position + len(ids)), dtype=np.int64),
            **{node.name: value for node, value in zip(past_nodes, cache or empty, strict=True)},
        }
        logits, *present = session.run(outputs, feed)
        return logits[0], present

    return run


def _use_float32_activations(model: onnx.ModelProto) -> None:
    """Change a graph to compute over the same weights what `--activations float32` would."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "MatMulNBits" and attribute.name == "accuracy_level":
                attribute.i = 1
            elif node.domain == DOMAIN and attribute.name == "activations":
                attribute.s = b"float32"
    if any(entry.domain == DOMAIN for entry in model.opset_import):  # whose float32 also means a float32 cache
        for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
            if value.name.startswith(("past_key_values.", "present.")):
                value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
