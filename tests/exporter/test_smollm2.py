"""A real model, SmolLM2, compared with the numpy reference and with llama.cpp on the same tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llama_cpp")

from llama3_exporter import export
from llama3_models.gguf.file import GGUFFile
from llama3_models.reference import forward
from llama3_runtime.generator import Generator
from llama3_runtime.sampling.sampler import SamplingParams

from tests.support import llama_cpp_oracle
from tests.support.english import ENGLISH
from tests.support.graphs import Graph, kl_divergence
from tests.support.vocabularies import smollm2_gguf

PROMPTS = [
    "Gravity is",
    "The capital of France is",
    "Once upon a time, there was a little girl who",
    "def fibonacci(n):",
    "The three primary colours are",
    "Water boils at",
    "In the year 1969,",
    "My favourite food is",
    "To make a good cup of tea, you need",
    "The quick brown fox",
]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("smollm2")
    for activations in ("int8", "float32"):
        export(smollm2_gguf(), folder / activations, activations=activations, logits="all")
    return {activations: folder / activations for activations in ("int8", "float32")}


@pytest.fixture(scope="module")
def passages() -> list[tuple[list[int], np.ndarray]]:
    """Return 200 tokens of each English text, and the reference's logits."""
    with GGUFFile.open(smollm2_gguf()) as file:
        ids = [ids[:200] for ids in llama_cpp_oracle.tokenize(smollm2_gguf(), ENGLISH)]
        return [(passage, forward(file, passage)) for passage in ids]


def test_float32_activations_are_exact(exports: dict[str, Path], passages: list[tuple[list[int], np.ndarray]]) -> None:
    graph = Graph(exports["float32"])
    for ids, expected in passages:
        found = graph(ids)[0][0]
        assert kl_divergence(expected, found) <= 1e-6
        assert (found.argmax(-1) == expected.argmax(-1)).all()


def test_int8_activations_lose_less_than_llama_cpp_s(
    exports: dict[str, Path], passages: list[tuple[list[int], np.ndarray]]
) -> None:
    """Both round to int8 in blocks of 32; ours keeps more bits where rounding matters most."""
    graph = Graph(exports["int8"])
    ours = [kl_divergence(expected, graph(ids)[0][0]) for ids, expected in passages]
    theirs = [kl_divergence(expected, llama_cpp_oracle.logits(smollm2_gguf(), ids)) for ids, expected in passages]
    assert np.mean(ours) <= 2e-3, ours
    assert all(a < b for a, b in zip(ours, theirs, strict=True)), (ours, theirs)


def test_greedy_text_is_llama_cpp_s(exports: dict[str, Path]) -> None:
    """It is the same for 64 tokens, or up to a token whose two candidates are closer than llama.cpp's rounding."""
    generator = Generator.from_folder(exports["int8"], max_length=128)
    params = SamplingParams(temperature=0, max_new_tokens=64, ignore_eos=True)
    same = 0
    for prompt in PROMPTS:
        prompt_ids = generator.tokenizer.encode(prompt)
        ours = generator.generate(prompt_ids, params).ids
        theirs = llama_cpp_oracle.greedy(smollm2_gguf(), prompt_ids, 64)
        if ours == theirs:
            same += 1
            continue
        fork = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
        text = [*prompt_ids, *ours[:fork]]
        with GGUFFile.open(smollm2_gguf()) as file:
            (logits,) = forward(file, text, last_only=True)
        rounding = np.std(llama_cpp_oracle.logits(smollm2_gguf(), text)[-1] - logits)
        gap = abs(logits[ours[fork]] - logits[theirs[fork]])
        print(f"{prompt!r} forks after {fork} tokens: {gap:.3f} apart, rounding {rounding:.3f}")
        assert gap < 3 * rounding, prompt
    print(f"{same} of {len(PROMPTS)} texts are the same")
