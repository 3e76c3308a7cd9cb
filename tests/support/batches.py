"""A batch that an exported graph runs step by step, and the tokens that each row has had so far."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort

from tests.support.graphs import Graph


class Batch:
    """Rows that share their steps and nothing else.

    Args:
        graph: The graph.
        num_rows: Rows of the batch.
        positions: Size of one buffer that is both past and present; None for arrays that grow with each step.
    """

    def __init__(self, graph: Graph, num_rows: int, positions: int | None = None) -> None:
        self.graph = graph
        self.given: list[list[int]] = [[] for _ in range(num_rows)]
        self.mask = np.zeros((num_rows, 0), np.int64)
        self._cache = graph.empty_cache(num_rows)
        self._buffers: dict[str, ort.OrtValue] | None = None
        if positions is not None:
            # The first content of the buffers does not matter.
            shapes = {name: (*past.shape[:2], positions, past.shape[3]) for name, past in self._cache.items()}
            self._arrays = {name: np.full(shapes[name], 7, past.dtype) for name, past in self._cache.items()}
            self._buffers = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in self._arrays.items()}

    def step(self, ids: np.ndarray, mask: np.ndarray, whole_mask: np.ndarray | None = None) -> np.ndarray:
        """Run a chunk, both [rows, seq], and return logits. `whole_mask` replaces the mask of all steps."""
        ids, mask = np.asarray(ids, np.int64), np.asarray(mask, np.int64)
        self.mask = np.concatenate([self.mask, mask], axis=1)
        whole = self.mask if whole_mask is None else np.asarray(whole_mask, np.int64)
        logits = self._run(ids, whole)
        for row, tokens in enumerate(self.given):
            tokens.extend(ids[row, mask[row] != 0])
        return logits

    def _run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        if self._buffers is None:
            logits, self._cache = self.graph(ids, mask, self._cache)
            return logits
        binding = self.graph.session.io_binding()
        for name, buffer in self._buffers.items():
            binding.bind_ortvalue_input(name, buffer)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), buffer)
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("attention_mask", mask)
        binding.bind_output("logits")
        self.graph.session.run_with_iobinding(binding)
        return next(value.numpy() for value in binding.get_outputs() if len(value.shape()) == 3)
