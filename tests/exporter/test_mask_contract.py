"""Each line of the table in docs/graph-contract.md about masks and ids is true: correct, refused or not checked."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from llama3_exporter import export
from onnxruntime.capi import onnxruntime_pybind11_state as state

from tests.support.batches import Batch
from tests.support.graphs import Graph
from tests.support.llama_gguf import write_llama_gguf
from tests.support.paths import DOCS

PAGE = DOCS / "graph-contract.md"
VOCAB_SIZE = 320
MAX_LENGTH = 64
SHAPE = {
    "num_heads": 8,
    "num_kv_heads": 2,
    "head_dim": 48,
    "vocab_size": VOCAB_SIZE,
    "types": {"token_embd.weight": T.Q4_1, "*": T.F32},
}
TEXTS = [np.random.default_rng(row).integers(0, VOCAB_SIZE, 40) for row in range(3)]
# I/O binding raises a plain RuntimeError.
REFUSALS = (state.Fail, state.InvalidArgument, state.RuntimeException, RuntimeError)


class WrongLogitsError(Exception):
    """The logits are not the row's own, and there was no error."""


class RefusedError(Exception):
    """Every attempt failed; `args` are the messages."""


class CheckedBatch(Batch):
    """One row or several, whose logits are checked after every step."""

    tolerance = 1e-5  # of the largest logit

    def __init__(self, graph: Graph, num_rows: int = 1, positions: int | None = None) -> None:
        super().__init__(graph, num_rows, positions)
        self.next = [0] * num_rows

    def take(self, *masks: str, whole_mask: np.ndarray | None = None) -> None:
        """Run a step. Each row has a mask such as "0110", and each 1 is the next token of the row's text."""
        mask = np.array([[int(character) for character in row] for row in masks])
        ids = np.zeros_like(mask)
        for row, text in enumerate(TEXTS[: len(masks)]):
            count = mask[row].sum()
            ids[row, mask[row] == 1] = text[self.next[row] : self.next[row] + count]
            self.next[row] += count
        logits = self.step(ids, mask, whole_mask)
        for row, given in enumerate(self.given):
            if mask[row].any():
                expected, _ = self.graph(np.array(given))
                if np.abs(logits[row, -1] - expected[0, -1]).max() > self.tolerance * np.abs(expected).max():
                    raise WrongLogitsError(masks)


def a_prompt_of_rows_of_any_length(graph: Graph) -> None:
    for positions in (None, 64):
        batch = CheckedBatch(graph, 3, positions)
        batch.take("001111", "110000", "111111")
        batch.take("1", "1", "1")
        batch = CheckedBatch(graph, 3, positions)
        batch.take("011110", "000001", "100000")
        batch.take("1", "1", "1")


def a_hole(graph: Graph) -> None:
    batch = CheckedBatch(graph, 2)
    batch.take("101101", "010001")
    batch.take("1", "1")


def a_row_of_padding_alone(graph: Graph) -> None:
    batch = CheckedBatch(graph, 2)
    batch.take("0000", "1111")
    batch.take("1", "1")


def a_resting_row(graph: Graph) -> None:
    for positions in (None, 64):
        batch = CheckedBatch(graph, 3, positions)
        batch.take("1111", "0111", "1100")
        for masks in (("1", "0", "1"), ("0", "0", "1"), ("1", "1", "0"), ("1", "1", "1")):
            batch.take(*masks)


def a_later_chunk_of_one_row(graph: Graph) -> None:
    for positions in (None, 64):
        batch = CheckedBatch(graph, 1, positions)
        for chunk in ("1111", "011", "110", "010", "000", "11111"):
            batch.take(chunk)
        batch.take("1")


def a_later_chunk_of_several_rows(graph: Graph) -> None:
    for positions in (None, 64):
        batch = CheckedBatch(graph, 3, positions)
        batch.take("1111", "0111", "1100")
        batch.take("0011", "1100", "1111")
        batch.take("0000", "1000", "1111")
        batch.take("1", "1", "1")


def fixed_width(batch: CheckedBatch, *masks: str) -> None:
    new = np.array([[int(character) for character in row] for row in masks])
    gap = np.zeros((len(masks), 64 - batch.mask.shape[1] - new.shape[1]), np.int64)
    batch.take(*masks, whole_mask=np.concatenate([batch.mask, gap, new], axis=1))


def a_fixed_width_in_steps_of_one_token(graph: Graph) -> None:
    batch = CheckedBatch(graph, 3, positions=64)
    batch.take("1111", "0111", "1100")
    for masks in (("1", "1", "1"), ("1", "0", "1"), ("1", "1", "1")):
        fixed_width(batch, *masks)


def a_fixed_width_in_chunks_of_one_row(graph: Graph) -> None:
    batch = CheckedBatch(graph, 1, positions=64)
    for chunk in ("1111", "011", "1"):
        fixed_width(batch, chunk)


def a_fixed_width_in_chunks_of_several_rows(graph: Graph) -> None:
    batch = CheckedBatch(graph, 2, positions=64)
    for chunks in (("1111", "0111"), ("111", "001"), ("1", "1")):
        fixed_width(batch, *chunks)


def old_padding_is_dropped(graph: Graph) -> None:
    """Before the chunk, only the number of ones matters."""
    batch = CheckedBatch(graph, 2, positions=16)
    batch.take("0000001111", "0000011111")
    batch.mask = batch.mask[:, 5:]
    for _ in range(10):
        batch.take("1", "1")


def a_mask_wider_than_the_tables(graph: Graph) -> None:
    batch = CheckedBatch(graph, 2)
    batch.take("1" * 30 + "0" * MAX_LENGTH, "0" * MAX_LENGTH + "1" * 30)
    batch.take("1", "1")


def refused_in_all(attempts: list[Callable[[], object]]) -> None:
    messages = []
    for attempt in attempts:
        try:
            attempt()
        except REFUSALS as error:
            messages.append(str(error))
        else:
            raise WrongLogitsError
    raise RefusedError(*messages)


def run(graph: Graph, mask: list[int], ids: list[int] | None = None, past: int = 0) -> Callable[[], object]:
    """Return an attempt to run one row with `past` tokens in the cache."""

    def attempt() -> None:
        cache = graph(TEXTS[0][:past])[1] if past else None
        graph(np.array(ids or [5]), np.array([mask]), cache)

    return attempt


def another_value(graph: Graph) -> None:
    bad = (-1, 2, -(2**63), 2**63 - 1)
    attempts = [run(graph, [1, value, 1], [7, 8, 9]) for value in bad]
    attempts += [run(graph, [1, 1, value, 1, 1], past=4) for value in bad]
    refused_in_all([*attempts, *(run(graph, [1, 1, 1, 1, value], past=4) for value in bad)])


def a_mask_that_is_too_wide(graph: Graph) -> None:
    refused_in_all([run(graph, [1] * width, past=4) for width in (6, 7, 100)])


def a_mask_that_is_too_narrow(graph: Graph) -> None:
    # With several tokens, onnxruntime's op itself refuses a width that is neither of the two that it accepts.
    refused_in_all([run(graph, [1] * 5, [5, 6], past=4), *(run(graph, [1] * width, past=4) for width in (1, 3, 4))])


def a_mask_narrower_than_the_chunk(graph: Graph) -> None:
    refused_in_all([run(graph, [1] * width, [5, 6, 7, 8]) for width in (1, 2, 3)])


def a_mask_of_other_rows(graph: Graph) -> None:
    attempts = []
    for past, length, ids_rows, mask_rows in itertools.product((0, 4), (1, 3), (1, 2, 3), (1, 2, 3)):
        if ids_rows != mask_rows:
            ids, mask = np.full((ids_rows, length), 5), np.ones((mask_rows, past + length))
            caches = [graph(np.full((rows, past), 3))[1] if past else graph.empty_cache(rows) for rows in (1, 2, 3)]
            attempts += [partial(graph, ids, mask, cache) for cache in caches]
    refused_in_all(attempts)


def a_cache_of_other_rows(graph: Graph) -> None:
    attempts = []
    for past, length, rows, cache_rows in itertools.product((0, 4), (1, 3), (1, 2, 3), (1, 2, 3)):
        if rows != cache_rows:
            cache = graph(np.full((cache_rows, past), 3))[1] if past else graph.empty_cache(cache_rows)
            attempts.append(partial(graph, np.full((rows, length), 5), np.ones((rows, past + length)), cache))
    refused_in_all(attempts)


def an_id_outside_of_the_vocabulary(graph: Graph) -> None:
    bad = (VOCAB_SIZE, -1, -VOCAB_SIZE, -VOCAB_SIZE - 1, 10**12, 2**63 - 1, -(2**63))
    refused_in_all([run(graph, [1, 1], [7, bad_id]) for bad_id in bad])


def any_id_at_padding(graph: Graph) -> None:
    expected, _ = graph(np.array([7, 8]))
    for bad_id in (VOCAB_SIZE, -1, 10**12, -(2**63)):
        found, _ = graph(np.array([bad_id, 7, 8]), np.array([[0, 1, 1]]))
        if np.abs(found - expected).max() > CheckedBatch.tolerance * np.abs(expected).max():
            raise WrongLogitsError


SITUATIONS = {
    "a prompt of rows of any length, padding on either side or both": a_prompt_of_rows_of_any_length,
    "a row that is all padding": a_row_of_padding_alone,
    "a 0 between two tokens": a_hole,
    "a step of one token in which some rows rest": a_resting_row,
    "a later chunk of several tokens, one row, padding anywhere": a_later_chunk_of_one_row,
    "a later chunk of several tokens, several rows of any length": a_later_chunk_of_several_rows,
    "a fixed width, steps of one token": a_fixed_width_in_steps_of_one_token,
    "a fixed width, chunks of one row": a_fixed_width_in_chunks_of_one_row,
    "a fixed width, chunks of several rows": a_fixed_width_in_chunks_of_several_rows,
    "a value other than 0 and 1": another_value,
    "wider than past plus chunk": a_mask_that_is_too_wide,
    "narrower than past plus chunk, without a shared buffer": a_mask_that_is_too_narrow,
    "narrower than the chunk": a_mask_narrower_than_the_chunk,
    "not as many rows as `input_ids`": a_mask_of_other_rows,
    "a token outside of the vocabulary": an_id_outside_of_the_vocabulary,
    "any id at padding": any_id_at_padding,
    "columns of old padding dropped, with a shared buffer": old_padding_is_dropped,
    "wider than `--max-length`, each row's tokens within it": a_mask_wider_than_the_tables,
    "a cache with a different number of rows": a_cache_of_other_rows,
}

# A part of each refusal's message.
REASONS = {
    "contrib": {
        "a later chunk of several tokens, several rows of any length": "batch_size must be 1",
        "a fixed width, chunks of several rows": "batch_size must be 1",
        "a value other than 0 and 1": "attention_mask_must_be_0_or_1",
        "a token outside of the vocabulary": "input_ids_must_be_in_the_vocabulary",
        "not as many rows as `input_ids`": "attention_mask_must_cover_input_ids",
        "a cache with a different number of rows": "dimension 0 should be",
        "narrower than the chunk": "attention_mask_must_cover_input_ids",
        "wider than past plus chunk": "attention_mask_must_be_as_wide_as_past_plus_chunk",
        "wider than `--max-length`, each row's tokens within it": "attention_mask_must_not_be_wider_than_max_length",
    },
    "native": {
        "a value other than 0 and 1": "attention_mask_must_be_0_or_1",
        "a token outside of the vocabulary": "id -?[0-9]+ is .* rows 0 to 319",
        "not as many rows as `input_ids`": "attention_mask_must_cover_input_ids",
        "a cache with a different number of rows": "past_key is",
        "narrower than the chunk": "attention_mask_must_cover_input_ids",
        "wider than past plus chunk": "total_length is .* 1 new tokens and room for 4",
        "narrower than past plus chunk, without a shared buffer": "total_length is .* attention mask may be too narrow",
    },
}


def outcome(situation: Callable[[Graph], None], graph: Graph) -> tuple[str, list[str]]:
    """Return the answer as the table has it, and the error messages."""
    try:
        situation(graph)
    except REFUSALS as error:
        return "refused", [str(error)]
    except RefusedError as error:
        return "refused", list(error.args)
    except WrongLogitsError:
        return "not checked", []
    return "correct", []


def table() -> dict[str, dict[str, str]]:
    """Return the page's lines: situation -> the answer of each kind of operators."""
    page = PAGE.read_text(encoding="utf-8")
    (head, lines) = re.findall(r"^\| (mask or ids \|.*) \|\n\|[- |]+\n((?:\|.*\n)+)", page, re.MULTILINE)[0]
    kinds = [cell.strip("` ") for cell in head.split("|")[1:]]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines()]
    return {situation: dict(zip(kinds, answers, strict=True)) for situation, *answers in cells}


@pytest.fixture(scope="module", params=["contrib", "native"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def graph(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    folder = tmp_path_factory.mktemp("mask")
    gguf = write_llama_gguf(folder / "model.gguf", **SHAPE)
    export(gguf, folder / "out", ops=kind, activations="float32", max_length=MAX_LENGTH)
    return Graph(folder / "out")


def test_the_table_has_each_situation() -> None:
    assert set(table()) == set(SITUATIONS)
    assert {answer for answers in table().values() for answer in answers.values()} == {
        "correct",
        "refused",
        "not checked",
    }


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_table_is_true(kind: str, graph: Graph, situation: str) -> None:
    answer, messages = outcome(SITUATIONS[situation], graph)
    assert answer == table()[situation][kind]
    assert (answer == "refused") == (situation in REASONS[kind])
    for message in messages:
        assert re.search(REASONS[kind][situation], message)


@pytest.mark.parametrize("situation", ["a token outside of the vocabulary", "any id at padding"])
def test_ids_of_a_float_embedding(tmp_path: Path, situation: str) -> None:
    export(write_llama_gguf(tmp_path / "model.gguf", vocab_size=VOCAB_SIZE), tmp_path / "out", ops="contrib")
    answer, messages = outcome(SITUATIONS[situation], Graph(tmp_path / "out"))
    assert answer == table()[situation]["contrib"]
    assert all("input_ids_must_be_in_the_vocabulary" in message for message in messages)


def test_a_float16_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cache and tables are float16: what the table calls correct is correct up to float16's rounding."""
    monkeypatch.setattr(CheckedBatch, "tolerance", 1e-2)
    export(write_llama_gguf(tmp_path / "model.gguf", **SHAPE), tmp_path / "out", ops="contrib", precision="fp16")
    graph = Graph(tmp_path / "out")
    for situation, answers in table().items():
        if answers["contrib"] == "correct":
            assert outcome(SITUATIONS[situation], graph)[0] == "correct", situation
