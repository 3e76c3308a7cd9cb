"""Metrics: the lines that scripts read, and figures that are right or absent."""

import subprocess
import sys

import numpy as np
from llama3_models.units import format_bytes
from llama3_runtime.metrics import Metrics

FIGURES = {
    "prompt_size": 7,
    "output_size": 11,
    "startup_seconds": 1.25,
    "warmup_seconds": 0.5,
    "tokenization_seconds": 0.002,
    "prompt_seconds": 0.07,
    "generation_seconds": 0.4,
    "peak_memory_bytes": 2_500_000_000,
    "kv_cache_bytes": 23_592_960,
}


def test_lines_in_the_predecessors_order_and_words():
    assert Metrics(**FIGURES).lines() == [
        "Prompt size: 7",
        "Output size: 11",
        "Startup time: 1250.0 ms",
        "Warmup time: 500.0 ms",
        "Time to first token: 72.0 ms",
        "Tokenization time: 2.0 ms",
        "Prompt eval throughput (context-encoding): 100.00 tokens per second",
        "Eval throughput (token-generation): 25.00 tokens per second",
        "Maximum memory: 2.50 GB",
        "KV cache memory: 23.6 MB",
    ]


def test_what_did_not_happen_has_no_figure():
    """With no token, or only one, there is no division by zero and no invented throughput."""
    changes = {"output_size": 0, "warmup_seconds": None, "prompt_seconds": None, "generation_seconds": None}
    none = Metrics(**{**FIGURES, **changes})
    assert not any(line.startswith("Warmup") for line in none.lines())
    assert "Time to first token: n/a" in none.lines()
    assert "Prompt eval throughput (context-encoding): n/a" in none.lines()
    one = Metrics(**{**FIGURES, "output_size": 1, "generation_seconds": 0.0})
    assert "Eval throughput (token-generation): n/a" in one.lines()


def test_as_data():
    data = Metrics(**FIGURES).as_dict()
    assert data["prompt_tokens_per_second"] == 7 / 0.07
    assert data["generated_tokens_per_second"] == 10 / 0.4
    assert data["first_token_seconds"] == 0.002 + 0.07
    assert {key: data[key] for key in FIGURES} == FIGURES


def test_sizes():
    assert format_bytes(999_900_000) == "999.9 MB"
    assert format_bytes(1_000_000_000) == "1.00 GB"


def test_peak_memory_is_this_process_at_its_largest():
    """It includes memory that was freed later, and excludes the memory of a large parent process."""
    script = """
import numpy as np
from llama3_runtime.metrics import peak_memory_bytes
before = peak_memory_bytes()
block = np.ones(300_000_000, np.uint8)
del block
print(before, peak_memory_bytes())
"""
    parent = np.ones(300_000_000, np.uint8)
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, after = map(int, child.stdout.split())
    assert 5_000_000 < before < 250_000_000 < parent.nbytes < after
