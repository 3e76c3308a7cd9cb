"""Holds an export against the GGUF: the graph and a float32 reference of the file see the same tokens.

The tokens are the model's own: drawn one by one from the graph's distribution, so that no tokenizer is needed and
the positions are such as the model meets in use. The distance is the Kullback-Leibler divergence from the
reference's distribution to the graph's, in nats, averaged over positions.

int8 activations cost a few thousandths of a nat, in which a lost correction of one matrix could hide. So the graph
is run once more with its linears switched to float32 activations: over the same weights, that has to be exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import onnx
from llama3_models.digests import sha256
from llama3_models.divergence import Distance, log_softmax
from llama3_models.errors import Llama3Error
from llama3_models.exports import GRAPH
from llama3_models.gguf.file import GGUFFile
from llama3_models.lora import Loras, parse_loras, read_adapters
from llama3_models.reference import forward
from llama3_runtime.model import Model

from llama3_exporter.contrib.backend import ACCURACY_LEVEL
from llama3_exporter.finite import refuse_not_finite
from llama3_exporter.graph_file import read_graph
from llama3_exporter.native.modules import DOMAIN

Rows = npt.NDArray[np.float32]

# Mean KL in nats above which an export counts as wrong: as it is, and with float32 activations.
BOUND = 2e-2
EXACT_BOUNDS = {"fp32": 1e-6, "fp16": 1e-3}

_NUM_TOKENS = 48
_NUM_CHUNKS = 3


@dataclass(frozen=True)
class Check:
    """How far logits are from the reference's, and how far they may be: the mean KL divergence in nats."""

    distance: Distance
    bound: float

    @property
    def passed(self) -> bool:
        """Whether the mean KL divergence is within the bound (a NaN is not)."""
        return self.distance.mean_kl <= self.bound

    def describe(self) -> str:
        """The figures in a line."""
        distance = self.distance
        return (
            f"mean KL divergence {distance.mean_kl:.2e} nats (bound {self.bound:.0e}), largest logit difference "
            f"{distance.max_logit_difference:.2e}, top-1 agreement {distance.top1_agreement:.1%} of "
            f"{len(distance.same_top_token)} positions"
        )


@dataclass(frozen=True)
class Verification:
    """The graph as it is, and its weights with float32 activations."""

    graph: Check
    weights: Check

    @property
    def passed(self) -> bool:
        """Whether both are within their bounds."""
        return self.graph.passed and self.weights.passed


def verify(export: str | Path, gguf: str | Path, *, lora: Loras = (), num_tokens: int = _NUM_TOKENS) -> Verification:
    """Run an export and the float32 reference of its GGUF on the same tokens.

    Args:
        export: The export's folder, or its graph beside the GGUF.
        gguf: The GGUF it was made of.
        lora: The LoRA adapters that it was made with, as `export` takes them.
        num_tokens: Positions to compare, fewer where the export's context is shorter.

    Raises:
        Llama3Error: the export or the GGUF cannot be loaded, or a weight of the GGUF is NaN or infinite.
    """
    with GGUFFile.open(gguf) as file:
        refuse_not_finite(file)  # which would make any two graphs differ, and none of them wrong
    graph = Path(export) / GRAPH if Path(export).is_dir() else Path(export)
    proto, manifest = read_graph(graph)
    options = manifest.options
    loras = parse_loras(lora)
    if [(sha256(each.path), each.scale) for each in loras] != [(use.sha256, use.scale) for use in manifest.adapters]:
        made_with = ", ".join(f"{use.name}:{use.scale:g}" for use in manifest.adapters) or "none"
        raise Llama3Error(f"{graph}: it was made with other adapters ({made_with}); give these to compare with")
    exact = EXACT_BOUNDS[options.precision]
    ids, from_graph = _draw(Model.from_folder(graph, max_length=min(num_tokens, options.max_length)))
    _use_float32_activations(proto)
    positions, from_weights = _last_of_chunks(_load(proto, graph.parent, len(ids)), ids)
    with GGUFFile.open(gguf) as file:
        expected = forward(file, ids, adapters=read_adapters(loras, file))
    return Verification(
        graph=Check(Distance.between(expected, from_graph), BOUND if options.activations == "int8" else exact),
        weights=Check(Distance.between(expected[positions], from_weights), exact),
    )


def _load(proto: onnx.ModelProto, weights_folder: Path, max_length: int) -> Model:
    """A changed graph over the weights of an export."""
    with TemporaryDirectory() as folder:
        graph = Path(folder, GRAPH)
        graph.write_bytes(proto.SerializeToString())
        return Model.from_folder(graph, max_length=max_length, weights_folder=weights_folder)


def _draw(model: Model) -> tuple[list[int], Rows]:
    """Tokens drawn from the graph's own distribution after token 0, to the cache's end, and the logits at each."""
    random = np.random.default_rng(0)
    ids, rows = [0], []
    for _ in range(model.max_length):
        logits = model.forward(ids[-1:])[-1].copy()
        rows.append(logits)
        probabilities = np.exp(log_softmax(logits))
        if not np.isfinite(probabilities).all():
            break  # compared as they are: the divergence is then NaN
        ids.append(int(random.choice(probabilities.size, p=probabilities / probabilities.sum())))
    return ids[: len(rows)], np.stack(rows)


def _last_of_chunks(model: Model, ids: list[int]) -> tuple[list[int], Rows]:
    """Run `ids` in a few chunks, as hosts run prompts; the position and the logits of each one's last token."""
    ends = sorted({len(ids) * (i + 1) // _NUM_CHUNKS for i in range(_NUM_CHUNKS)} - {0})
    rows, start = [], 0
    for end in ends:
        rows.append(model.forward(ids[start:end])[-1].copy())
        start = end
    return [end - 1 for end in ends], np.stack(rows)


def _use_float32_activations(model: onnx.ModelProto) -> None:
    """Change a graph to compute over the same weights what `--activations float32` would."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "MatMulNBits" and attribute.name == "accuracy_level":
                attribute.i = ACCURACY_LEVEL["float32"]
            elif node.domain == DOMAIN and attribute.name == "activations":
                attribute.s = b"float32"
    if any(entry.domain == DOMAIN for entry in model.opset_import):  # whose float32 also means a float32 cache
        for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
            if value.name.startswith(("past_key_values.", "present.")):
                value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
