"""One export of SmolLM2 of each kind, and the texts that every host must generate with it.

Activations are float32, because int8 rounding depends on how a text is split into chunks, and hosts split differently.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from llama3_exporter import export
from llama3_runtime import Generator, SamplingParams

from tests.support.vocabularies import smollm2_gguf

PROMPTS = ("Gravity is", "The capital of France is")  # of different lengths in tokens, and the second text ends
NEW_TOKENS = 32


@pytest.fixture(scope="session")
def contrib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(smollm2_gguf(), tmp_path_factory.mktemp("hosts") / "contrib", activations="float32").output


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hosts") / "native"
    return export(smollm2_gguf(), folder, ops="native", activations="float32").output


@pytest.fixture(scope="session")
def generator(contrib: Path) -> Generator:
    return Generator.from_folder(contrib, max_length=256)


@pytest.fixture(scope="session")
def texts(generator: Generator) -> dict[str, str]:
    """Return the greedy continuation of each prompt."""
    params = SamplingParams(temperature=0, max_new_tokens=NEW_TOKENS)
    return {prompt: generator.generate(prompt, params).text for prompt in PROMPTS}


@pytest.fixture(scope="session")
def ids(generator: Generator) -> dict[str, list[int]]:
    """Return the ids of each prompt and its greedy continuation, which does not stop at the end of the text."""
    params = SamplingParams(temperature=0, max_new_tokens=NEW_TOKENS, ignore_eos=True)
    encoded = {prompt: generator.tokenizer.encode(prompt) for prompt in PROMPTS}
    return {prompt: [*ids, *generator.generate(ids, params).ids] for prompt, ids in encoded.items()}
