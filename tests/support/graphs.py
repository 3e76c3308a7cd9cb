"""An exported graph as any app would run it: with ONNX Runtime and the library of ops, without our runtime."""

from __future__ import annotations

from pathlib import Path

import llama3_custom_ops
import numpy as np
import onnxruntime as ort

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class Graph:
    """A session, and calls with explicit past and mask.

    Args:
        path: An export's folder, or a graph.
        folding: Whether ONNX Runtime optimizes the graph.
    """

    def __init__(self, path: Path, *, folding: bool = True) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 2
        if path.is_dir() and any(path.glob("*.gguf")):  # a native graph's weights
            llama3_custom_ops.register(options)
        if not folding:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        graph = path / "model.onnx" if path.is_dir() else path
        self.session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self._past = [node for node in self.session.get_inputs() if node.name.startswith("past_key_values.")]

    def empty_cache(self, batch: int = 1) -> dict[str, np.ndarray]:
        """Return a past without positions."""
        return {node.name: np.zeros((batch, node.shape[1], 0, node.shape[3]), _TYPES[node.type]) for node in self._past}

    def __call__(
        self,
        ids: np.ndarray,
        mask: np.ndarray | None = None,
        cache: dict[str, np.ndarray] | None = None,
        keep: int | None = None,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Run ids [batch, seq] and return logits [batch, rows, vocab] and the cache that includes them."""
        ids = np.atleast_2d(np.asarray(ids, dtype=np.int64))
        cache = self.empty_cache(len(ids)) if cache is None else cache
        if mask is None:
            past_length = next(iter(cache.values())).shape[2]
            mask = np.ones((len(ids), past_length + ids.shape[1]), dtype=np.int64)
        feed = {"input_ids": ids, "attention_mask": np.asarray(mask, dtype=np.int64), **cache}
        if keep is not None:
            feed["logits_to_keep"] = np.array([keep], dtype=np.int64)
        names = [name.replace("past_key_values", "present") for name in cache]
        logits, *present = self.session.run(["logits", *names], feed)
        return logits, dict(zip(cache, present, strict=True))


def kl_divergence(expected: np.ndarray, found: np.ndarray) -> float:
    """Return the mean divergence per row from `expected` to `found`, logits [rows, vocab], in nats."""
    p, q = (_log_softmax(np.asarray(logits, dtype=np.float64)) for logits in (expected, found))
    return float(np.mean(np.sum(np.exp(p) * (p - q), axis=-1)))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
