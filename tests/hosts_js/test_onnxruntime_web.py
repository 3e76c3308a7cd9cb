"""onnxruntime-web runs the exports for browsers in Chromium, in WebAssembly and on WebGPU, in two versions.

Expected values come from the numpy reference.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T

from tests.hosts_js.chromium import Site, logits_of
from tests.hosts_js.javascript import require_chromium, require_node
from tests.hosts_js.web_model import WebModel, prompts, web_model
from tests.support.llama_gguf import llama31_rope_factors, write_llama_gguf
from tests.support.random_blocks import RANDOM_BLOCK_TYPES

require_node("onnxruntime-web", "@huggingface/transformers", "playwright-core")
require_chromium()

STEPS = 24
# The third is a block of tokens in onnxruntime's attention on WebGPU; the last is two prompts in one batch.
BATCHES = [[3], [31], [32], [33], [200], [5, 40]]
HOSTS = [(version, provider) for provider in ("wasm", "webgpu") for version in ("pinned", "newest")]


@pytest.fixture(scope="module", params=HOSTS, ids=lambda host: "-".join(host))
def outcome(request: pytest.FixtureRequest, site: Site, tiny: WebModel) -> dict[str, Any]:
    """Return the results of greedy decoding of all batches, and the provider."""
    version, provider = request.param
    job = {"version": version, "provider": provider, "batches": [prompts(lengths) for lengths in BATCHES]}
    (report,) = site.run(("runOrt", {**job, "steps": STEPS, **tiny.files(provider)}))
    return {"provider": provider, **report["value"]}


@pytest.mark.parametrize("index", range(len(BATCHES)), ids=[str(lengths) for lengths in BATCHES])
def test_logits_and_ids_are_the_reference_s(outcome: dict[str, Any], tiny: WebModel, index: int) -> None:
    tiny.check_greedy(outcome["results"][index], prompts(BATCHES[index]), STEPS)


def test_the_cache_stays_on_the_device(outcome: dict[str, Any]) -> None:
    expected = ["gpu-buffer"] if outcome["provider"] == "webgpu" else ["cpu"]
    assert all(result["locations"] == expected for result in outcome["results"])


def test_webgpu_computes_all_but_ids_mask_and_shapes(site: Site, tiny: WebModel) -> None:
    """The session's log says where each node is, and which copies between CPU and GPU there are.

    What the CPU computes are integers of 64 bits, which WebGPU does not have, and the same few for any model.
    """
    job = {"version": "newest", "provider": "webgpu", "batches": [[[5, 6, 7]]], "steps": 1, "verbose": True}
    (report,) = site.run(("runOrt", {**job, **tiny.files("webgpu")}))
    placed = placements(report["log"])
    on_cpu = placed["CPUExecutionProvider"]
    assert any(name.startswith("layers.1/") for name in placed["WebGpuExecutionProvider"])
    assert not [name for name in on_cpu if name.startswith(("layers.", "norm", "lm_head"))]
    assert len([name for name in on_cpu if name.startswith("embed_tokens/")]) <= 3
    assert len(on_cpu) <= 41
    copies = [line for line in report["log"] if "AddCopyNode" in line]
    assert len(copies) <= 3, copies


def placements(log: list[str]) -> dict[str, list[str]]:
    """Return the names of the nodes on each provider."""
    names: dict[str, list[str]] = {}
    for line in log:
        if found := re.search(r"Node\(s\) placed on \[(\w+)\]", line):
            on_provider = names[found[1]] = []
        elif found := re.search(r"VerifyEachNodeIsAssignedToAnEp\]\s+\w+ \((\S+)\)", line):
            on_provider.append(found[1])
    return names


def test_every_type_is_right_in_webassembly(site: Site, tmp_path: Path) -> None:
    types = [T.F32, T.F16, T.BF16, *RANDOM_BLOCK_TYPES]
    assert len(types) == 26
    (prompt,) = prompts([7])
    models = [
        web_model(
            write_llama_gguf(tmp_path / f"{type_.name}.gguf", num_layers=1, types=type_), site.models / type_.name
        )
        for type_ in types
    ]
    job = {"version": "pinned", "provider": "wasm", "batches": [[prompt]], "steps": 4}
    reports = site.run(*(("runOrt", {**job, **model.files("wasm")}) for model in models))
    for type_, model, report in zip(types, models, reports, strict=True):
        (result,) = report["value"]["results"]
        (ids,) = result["ids"]
        expected = model.expected(prompt, ids)
        error = np.abs(logits_of(result, 0) - expected).max()
        assert error < 1e-5 * np.abs(expected).max(), (type_.name, error)


@pytest.mark.parametrize("provider", ["wasm", "webgpu"])
def test_late_positions_are_right(site: Site, tmp_path: Path, provider: str) -> None:
    """With float32 angles, the logits would be wrong in the fourth digit."""
    path = write_llama_gguf(
        tmp_path / "late.gguf",
        num_layers=1,
        hidden_size=64,
        num_heads=2,
        num_kv_heads=1,
        head_dim=32,
        intermediate_size=96,
        context_length=131_072,
        rope_theta=500_000.0,
        rope_factors=llama31_rope_factors(32),
    )
    model = web_model(path, site.models / f"late-{provider}")
    (prompt,) = prompts([9_000])
    job = {"version": "newest", "provider": provider, "batches": [[prompt]], "steps": 2}
    (report,) = site.run(("runOrt", {**job, **model.files(provider)}))
    (result,) = report["value"]["results"]
    expected = model.expected(prompt, result["ids"][0])
    assert np.abs(logits_of(result, 0) - expected).max() < 1e-4 * np.abs(expected).max()
