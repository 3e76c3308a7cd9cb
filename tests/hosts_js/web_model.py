"""Exports for browsers, and the logits that the numpy reference has for them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from llama3_exporter import export
from llama3_models.gguf.file import GGUFFile
from llama3_models.reference import forward
from llama3_runtime import Generator, SamplingParams

from tests.hosts_js.chromium import logits_of

_SUFFIXES = {"fp32": "", "q4": "_q4"}
"""What transformers.js adds to a graph's name for each dtype."""


@dataclass(frozen=True)
class WebModel:
    """A GGUF, and its export in the folder of a site's models."""

    gguf: Path
    folder: Path

    def files(self, device: str) -> dict[str, Any]:
        """Return the files that a device reads, as pages/ort.js wants them, by the rules of transformers.js."""
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))["transformers.js_config"]
        chosen = config | config.get("device_config", {}).get(device, {})
        graph = f"model{_SUFFIXES[chosen['dtype']]}.onnx"
        count = int(chosen["use_external_data_format"][graph])
        data = [f"{graph}_data{f'_{i}' if i else ''}" for i in range(count)]
        folder = f"/models/{self.folder.name}/onnx"
        return {"folder": folder, "graph": graph, "data": data}

    def expected(self, prompt: list[int], new_ids: list[int]) -> np.ndarray:
        """Return the reference's logits from which each of `new_ids` was chosen: float32 [new ids, vocab_size]."""
        with GGUFFile.open(self.gguf) as file:
            return forward(file, [*prompt, *new_ids[:-1]])[len(prompt) - 1 :]

    def check_greedy(self, result: dict[str, Any], batch: list[list[int]], steps: int) -> None:
        """Assert that a host decoded a batch greedily, with the reference's ids and its logits within 1e-4."""
        for row, prompt in enumerate(batch):
            ids = result["ids"][row]
            expected = self.expected(prompt, ids)
            assert len(ids) == steps
            np.testing.assert_array_equal(ids, expected.argmax(axis=-1))
            np.testing.assert_allclose(logits_of(result, row), expected, rtol=0, atol=1e-4)


def prompts(lengths: list[int]) -> list[list[int]]:
    """Return random ids of the tiny vocabulary, a prompt of each length."""
    return [np.random.default_rng(length).integers(3, 260, length).tolist() for length in lengths]


def reply(generator: Generator, messages: list[dict[str, str]], new_tokens: int) -> str:
    """Return a generator's greedy answer to a chat."""
    template = jinja2.Template(generator.tokenizer.chat_template or "")
    ids = generator.tokenizer.encode(template.render(messages=messages, add_generation_prompt=True), special=True)
    return generator.generate(ids, SamplingParams(temperature=0, max_new_tokens=new_tokens)).text


def web_model(gguf: Path, folder: Path, shard_size: int | None = None) -> WebModel:
    """Export a GGUF for browsers."""
    export(gguf, folder, target="web", shard_size=shard_size)
    return WebModel(gguf, folder)
