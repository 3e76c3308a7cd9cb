"""The comparison of an export with its GGUF: the graph and a float32 reference of the file run on the same tokens.

The tokens are drawn one by one from the graph's own distribution. So no tokenizer is needed, and the text is typical of
what the model meets in use. The distance is the Kullback-Leibler divergence from the reference's distribution to the
graph's, in nats, averaged over positions.

Int8 activations cost a few thousandths of a nat, which could hide a lost correction in one matrix. So the graph is run
again with float32 activations in its linears: with the same weights, the result must be exact.
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
from llama3_models.exports import GRAPH, graph_in
from llama3_models.gguf.file import GGUFFile
from llama3_models.lora import Loras, parse_loras, read_adapters
from llama3_models.reference import forward
from llama3_runtime.model import Model

from llama3_exporter.contrib.backend import ACCURACY_LEVEL
from llama3_exporter.finite import refuse_not_finite
from llama3_exporter.graph_file import read_graph
from llama3_exporter.native.modules import DOMAIN

Rows = npt.NDArray[np.float32]

# Bounds of the mean KL divergence in nats: of the graph as it is, and with float32 activations.
BOUND = 2e-2
EXACT_BOUNDS = {"fp32": 1e-6, "fp16": 1e-3}

_NUM_TOKENS = 48
_NUM_CHUNKS = 3


@dataclass(frozen=True)
class Check:
    """The distance of logits from the reference's, and the bound for the mean KL divergence, in nats."""

    distance: Distance
    bound: float

    @property
    def passed(self) -> bool:
        """Whether the mean KL divergence is within the bound (a NaN is not)."""
        return self.distance.mean_kl <= self.bound

    def describe(self) -> str:
        """Return the figures in one line."""
        distance = self.distance
        return (
            f"mean KL divergence {distance.mean_kl:.2e} nats (bound {self.bound:.0e}), largest logit difference "
            f"{distance.max_logit_difference:.2e}, top-1 agreement {distance.top1_agreement:.1%} of "
            f"{len(distance.same_top_token)} positions"
        )


@dataclass(frozen=True)
class Verification:
    """The checks of the graph as it is, and of its weights with float32 activations."""

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
        gguf: The GGUF it was made from.
        lora: The LoRA adapters it was made with, in the form that `export` accepts.
        num_tokens: Positions to compare, or fewer if the export's context is shorter.

    Raises:
        Llama3Error: the export or the GGUF cannot be loaded, or a weight of the GGUF is NaN or infinite.
    """
    with GGUFFile.open(gguf) as file:
        refuse_not_finite(file)  # with a NaN, even a correct graph would differ
    graph = graph_in(Path(export)) if Path(export).is_dir() else Path(export)
    proto, manifest = read_graph(graph)
    options = manifest.options
    loras = parse_loras(lora)
    if [(sha256(each.path), each.scale) for each in loras] != [(use.sha256, use.scale) for use in manifest.adapters]:
        made_with = ", ".join(f"{use.name}:{use.scale:g}" for use in manifest.adapters) or "none"
        raise Llama3Error(f"{graph}: the export has other adapters ({made_with}); verify it with the same ones")
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
    """Load a changed graph with the weights of an export."""
    with TemporaryDirectory() as folder:
        graph = Path(folder, GRAPH)
        graph.write_bytes(proto.SerializeToString())
        return Model.from_folder(graph, max_length=max_length, weights_folder=weights_folder)


def _draw(model: Model) -> tuple[list[int], Rows]:
    """Draw tokens from the graph's own distribution, from token 0 to the end of the cache. Also return their logits."""
    random = np.random.default_rng(0)
    ids, rows = [0], []
    for _ in range(model.max_length):
        logits = model.forward(ids[-1:])[-1].copy()
        rows.append(logits)
        probabilities = np.exp(log_softmax(logits))
        if not np.isfinite(probabilities).all():
            break  # the divergence of these logits is then NaN
        ids.append(int(random.choice(probabilities.size, p=probabilities / probabilities.sum())))
    return ids[: len(rows)], np.stack(rows)


def _last_of_chunks(model: Model, ids: list[int]) -> tuple[list[int], Rows]:
    """Run `ids` in a few chunks, as hosts run prompts. Return the position and logits of each chunk's last token."""
    ends = sorted({len(ids) * (i + 1) // _NUM_CHUNKS for i in range(_NUM_CHUNKS)} - {0})
    rows, start = [], 0
    for end in ends:
        rows.append(model.forward(ids[start:end])[-1].copy())
        start = end
    return [end - 1 for end in ends], np.stack(rows)


def _use_float32_activations(model: onnx.ModelProto) -> None:
    """Change a graph to compute what `--activations float32` would, with the same weights."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "MatMulNBits" and attribute.name == "accuracy_level":
                attribute.i = ACCURACY_LEVEL["float32"]
            elif node.domain == DOMAIN and attribute.name == "activations":
                attribute.s = b"float32"
    if any(entry.domain == DOMAIN for entry in model.opset_import):  # float32 native ops need a float32 cache
        for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
            if value.name.startswith(("past_key_values.", "present.")):
                value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
