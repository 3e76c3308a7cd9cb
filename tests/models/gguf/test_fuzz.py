"""A fuzzer of GGUF headers: whatever the bytes, a file opens or is refused in one line, cheaply.

It mutates a valid file: it flips bits, overwrites lengths, counts and offsets, repeats pieces, cuts off the end. The
tests run some thousand mutations, always the same ones; LLAMA3_FUZZ_SECONDS=300 runs new ones for that long.
"""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
from collections import Counter
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile, StringArray

from tests.support.llama_gguf import write_llama_gguf
from tests.support.raw_gguf import RawGGUF

FUZZ_SECONDS = float(os.environ.get("LLAMA3_FUZZ_SECONDS", "0"))

# Positions are drawn from 0 to 1 and scaled, so an edit works in files of any size.
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "u8", "u32", "u64", "u32 at a field", "u64 at a field", "repeat", "remove", "cut"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(1, 64),
        st.one_of(
            st.sampled_from([0, 1, 2, 4, 8, 9, 13, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1]),
            st.integers(0, 64),
            st.integers(0, 2**64 - 1),
        ),
    ),
    min_size=1,
    max_size=6,
)


def mutate(content: bytes, fields: list[int], edits: list[tuple[str, float, int, int]]) -> bytes:
    mutated = bytearray(content)
    for kind, place, length, number in edits:
        at = fields[int(place * len(fields))] if kind.endswith("at a field") else int(place * len(mutated))
        if kind == "flip":
            mutated[at : at + 1] = bytes(byte ^ 1 << length % 8 for byte in mutated[at : at + 1])
        elif kind == "u8":
            mutated[at : at + 1] = struct.pack("<B", number % 2**8)
        elif kind.startswith("u32"):
            mutated[at : at + 4] = struct.pack("<I", number % 2**32)
        elif kind.startswith("u64"):
            mutated[at : at + 8] = struct.pack("<Q", number)
        elif kind == "repeat":
            mutated[at:at] = mutated[at : at + length]
        elif kind == "remove":
            del mutated[at : at + length]
        else:
            del mutated[at:]
    return bytes(mutated)


def use_everything(path: Path) -> None:
    with GGUFFile.open(path) as file:
        for value in file.metadata.values():
            if isinstance(value, StringArray):
                assert len(value.raw_all()) == len(list(value))
            elif isinstance(value, np.ndarray):
                assert value.sum() is not None
        for tensor in file.tensors.values():
            assert tensor.data.nbytes == tensor.n_bytes
            assert tensor.data.any() in (True, False)  # reads every page


def check(path: Path) -> str:
    """Open one file and return the outcome, "opened" or "refused"."""
    tracemalloc.reset_peak()
    memory = tracemalloc.get_traced_memory()[0]
    begin = time.perf_counter()
    message = ""
    try:
        use_everything(path)
    except Llama3Error as error:
        message = str(error)
    assert time.perf_counter() - begin < 5
    assert tracemalloc.get_traced_memory()[1] - memory < 16 << 20
    assert message.isprintable()
    assert len(message) < len(str(path)) + 300
    return "refused" if message else "opened"


def fuzz(bases: list[tuple[bytes, list[int]]], path: Path, *, max_examples: int, derandomize: bool) -> Counter[str]:
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=max_examples,
        derandomize=derandomize,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(EDITS)
    def opens_or_is_refused(edits: list[tuple[str, float, int, int]]) -> None:
        # Drawing edits costs more than opening files, so every beginning of a list is used, with both bases.
        for content, fields in bases:
            for length in range(1, len(edits) + 1):
                path.unlink(missing_ok=True)  # not overwritten, because a view of the last one may be alive
                path.write_bytes(mutate(content, fields, edits[:length]))
                outcomes[check(path)] += 1

    tracemalloc.start()
    try:
        opens_or_is_refused()
    finally:
        tracemalloc.stop()
    return outcomes


@pytest.fixture
def bases(tmp_path: Path) -> list[tuple[bytes, list[int]]]:
    """Contents and the positions of fields: of a file with a bit of everything, and of a small Llama."""
    pieces = RawGGUF().pieces()
    fields = [0, *accumulate(map(len, pieces[:-1]))]
    small = write_llama_gguf(
        tmp_path / "small.gguf",
        hidden_size=32,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        intermediate_size=32,
        vocab_size=272,
        types=GGMLQuantizationType.Q4_0,
    )
    content = small.read_bytes()
    return [(b"".join(pieces), fields), (content, list(range(0, 1024, 4)))]


def test_no_mutation_of_a_header_crashes_or_costs_much(bases: list[tuple[bytes, list[int]]], tmp_path: Path) -> None:
    path = tmp_path / "mutated.gguf"
    if not FUZZ_SECONDS:
        outcomes = fuzz(bases, path, max_examples=300, derandomize=True)
    else:
        outcomes = Counter()
        end = time.monotonic() + FUZZ_SECONDS
        while time.monotonic() < end:
            outcomes += fuzz(bases, path, max_examples=1000, derandomize=False)
    print(dict(outcomes))
    assert min(outcomes["opened"], outcomes["refused"]) > 10
