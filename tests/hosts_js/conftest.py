"""What the JavaScript hosts load: an export of SmolLM2 with float32 activations, and exports for browsers.

int8 rounding depends on how a text is split into chunks and on the host's kernels, so greedy texts could differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as T
from llama3_exporter import export
from llama3_runtime import Generator

from tests.hosts_js.chromium import Site, served
from tests.hosts_js.javascript import require_chromium
from tests.hosts_js.web_model import WebModel, web_model
from tests.support.llama_gguf import write_llama_gguf
from tests.support.vocabularies import smollm2_gguf

SHARD_SIZE = 32_000_000


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("hosts-js") / "smollm2"
    return export(smollm2_gguf(), output, activations="float32", shard_size=SHARD_SIZE).output


@pytest.fixture(scope="session")
def generator(folder: Path) -> Generator:
    return Generator.from_folder(folder, max_length=256)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with served(require_chromium(), tmp_path_factory.mktemp("pages")) as site:
        yield site


@pytest.fixture(scope="session")
def tiny(site: Site, tmp_path_factory: pytest.TempPathFactory) -> WebModel:
    """Two layers of several types: WebGPU in software needs 10 to 20 s for a token of SmolLM2."""
    types = {"token_embd.weight": T.Q8_0, "*.attn_v.weight": T.Q6_K, "blk.1.ffn_down.weight": T.F16, "*": T.Q4_K}
    path = write_llama_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", types=types)
    return web_model(path, site.models / "tiny")


@pytest.fixture(scope="session")
def tiny_chat(site: Site, tmp_path_factory: pytest.TempPathFactory) -> WebModel:
    """A small Qwen2 with a chat template."""
    path = tmp_path_factory.mktemp("tiny-chat") / "chat.gguf"
    write_llama_gguf(path, architecture="qwen2", tokenizer="qwen2", vocab_size=961, types=T.Q4_K)
    return web_model(path, site.models / "tiny-chat")
