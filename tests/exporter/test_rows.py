"""The rows of a batch are independent: each gets the logits that its own tokens get alone.

This holds for any length of the other rows, for padding on either side, and if a row rests in some steps.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from llama3_exporter import export
from llama3_models.gguf.file import GGUFFile
from llama3_models.reference import forward

from tests.support.batches import Batch
from tests.support.graphs import Graph
from tests.support.llama_gguf import llama31_rope_factors, write_llama_gguf

VOCAB_SIZE = 333
SHAPE = {
    "hidden_size": 96,
    "num_heads": 6,
    "num_kv_heads": 2,
    "head_dim": 48,
    "intermediate_size": 160,
    "vocab_size": VOCAB_SIZE,
    "rope_theta": 500_000.0,
    "rope_factors": llama31_rope_factors(48),
    "context_length": 1024,
    "types": {"token_embd.weight": T.Q4_1, "*.attn_v.weight": T.Q8_0, "*": T.F32},
}
SEEDS = range(20)


class Exports:
    """Graphs of one model, and the logits of a text alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gguf = write_llama_gguf(folder / "model.gguf", **SHAPE)
        self._graphs: dict[tuple[str, str], Graph] = {}

    def graph(self, ops: str, logits: str = "last") -> Graph:
        if (ops, logits) not in self._graphs:
            output = self.folder / f"{ops}-{logits}"
            export(self.gguf, output, ops=ops, activations="float32", logits=logits)
            self._graphs[ops, logits] = Graph(output)
        return self._graphs[ops, logits]

    def alone(self, ops: str, ids: list[int]) -> np.ndarray:
        """Return the logits [seq, vocab] of one text in one chunk."""
        logits, _ = self.graph(ops, "all")(np.array(ids))
        return logits[0]

    def reference(self, ids: list[int]) -> np.ndarray:
        with GGUFFile.open(self.gguf) as file:
            return forward(file, np.array(ids))


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory.mktemp("rows"))


def assert_equal_logits(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()


def random_chunk(rng: np.random.Generator, num_rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw ids and mask [rows, length]. A row has its real tokens on the right, on the left, or anywhere, or none."""
    ids = rng.integers(0, VOCAB_SIZE, (num_rows, length))
    mask = np.zeros((num_rows, length), np.int64)
    for row in range(num_rows):
        real = rng.choice([0, length, rng.integers(0, length + 1)])
        places = (slice(length - real, length), slice(0, real), rng.permutation(length)[:real])[rng.integers(3)]
        mask[row, places] = 1
    ids[mask == 0] = rng.choice([0, -1, VOCAB_SIZE - 1, 10**9], (mask == 0).sum())  # padding may have any id
    return ids, mask


def check_step(exports: Exports, ops: str, batch: Batch, logits: np.ndarray, mask: np.ndarray) -> None:
    """Check the last token's logits of each row that had one in this step."""
    for row, given in enumerate(batch.given):
        if mask[row].any():
            assert_equal_logits(logits[row, -1], exports.alone(ops, given)[-1])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("buffer", ["shared", "growing"])
def test_any_mix_of_lengths_is_right_in_native(exports: Exports, seed: int, buffer: str) -> None:
    """Chunks have 1 to 150 tokens, and each row has any number of new ones, including none."""
    rng = np.random.default_rng(seed)
    num_rows = int(rng.integers(1, 6))
    batch = Batch(exports.graph("native"), num_rows, positions=1024 if buffer == "shared" else None)
    for length in rng.choice([1, 1, 2, 3, 7, 8, 9, 30, 150], 6):
        ids, mask = random_chunk(rng, num_rows, int(length))
        check_step(exports, "native", batch, batch.step(ids, mask), mask)
    for row, given in enumerate(batch.given):
        if given:
            ids = rng.integers(0, VOCAB_SIZE, (num_rows, 1))
            mask = np.arange(num_rows)[:, None] == row
            last = batch.step(ids, mask)
            assert_equal_logits(last[row, -1], exports.reference(batch.given[row])[-1], 1e-4)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("buffer", ["shared", "growing"])
def test_a_prompt_of_any_mix_and_steps_of_one_token_are_right_in_contrib(
    exports: Exports, seed: int, buffer: str
) -> None:
    """Any rows may rest in a step. After a past, onnxruntime's op accepts several tokens only for a single row."""
    rng = np.random.default_rng(seed)
    num_rows = int(rng.integers(1, 6))
    batch = Batch(exports.graph("contrib"), num_rows, positions=1024 if buffer == "shared" else None)
    lengths = rng.choice([1, 2, 7, 30, 150], 1).tolist() + [1] * 8
    if num_rows == 1:
        lengths = rng.choice([1, 1, 2, 3, 9, 30, 150], 6).tolist()
    for length in lengths:
        ids, mask = random_chunk(rng, num_rows, length)
        logits = batch.step(ids, mask)
        check_step(exports, "contrib", batch, logits, mask)
    for row in np.flatnonzero(mask.any(axis=1)):
        assert_equal_logits(logits[row, -1], exports.reference(batch.given[row])[-1], 1e-4)


@pytest.mark.parametrize("ops", ["contrib", "native"])
@pytest.mark.parametrize("logits", ["all", "selected"])
def test_logits_of_every_token_stand_where_the_token_stood(exports: Exports, ops: str, logits: str) -> None:
    rng = np.random.default_rng(5)
    graph = exports.graph(ops, logits)
    for _ in range(10):
        ids, mask = random_chunk(rng, 4, 12)
        found, _ = graph(ids, mask, keep=5 if logits == "selected" else None)
        for row in range(4):
            expected = exports.alone(ops, ids[row, mask[row] == 1].tolist()) if mask[row].any() else np.zeros((0, 1))
            if logits == "all":
                kept = found[row, mask[row] == 1]
            elif len(expected):  # if a row has fewer tokens than are kept, the first is repeated
                expected = expected[np.maximum(np.arange(-5, 0) + len(expected), 0)]
                kept = found[row]
            if len(expected):
                assert_equal_logits(kept, expected)


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_steps_with_a_mask_of_fixed_width(exports: Exports, ops: str) -> None:
    """The mask has zeros between the past and the last column, and the rows have different lengths."""
    rng = np.random.default_rng(6)
    batch = Batch(exports.graph(ops), 3, positions=64)
    ids, mask = random_chunk(rng, 3, 12)
    mask[:, 3] = 1
    batch.step(ids % VOCAB_SIZE, mask)
    for _ in range(4):
        chunk, new = random_chunk(rng, 3, 1)
        gap = np.zeros((3, 64 - batch.mask.shape[1] - 1), np.int64)
        logits = batch.step(chunk, new, np.concatenate([batch.mask, gap, new], axis=1))
        check_step(exports, ops, batch, logits, new)
