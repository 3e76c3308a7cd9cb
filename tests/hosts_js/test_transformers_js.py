"""transformers.js loads the exports for browsers without a session option, in Node and in Chromium."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from llama3_exporter import export
from llama3_runtime import Generator, SamplingParams

from tests.hosts.host_programs import example
from tests.hosts_js.chromium import Site
from tests.hosts_js.javascript import FOLDER, PACKAGES, require_chromium, require_node, run_node
from tests.hosts_js.web_model import WebModel, prompts, reply, web_model
from tests.support.vocabularies import smollm2_gguf

require_node("@huggingface/transformers", "playwright-core")
require_chromium()

STEPS = 24
BATCHES = [[3], [31], [32], [33], [200], [5, 40]]
PROMPT = "The capital of France is"
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


def run(site: Site, host: str, function: str, job: dict[str, Any]) -> dict[str, Any]:
    """Call a function of pages/transformers.js in Node, or in a page on WebAssembly or WebGPU."""
    if host == "node":
        value = json.loads(run_node(FOLDER / "run_transformers.mjs", function, site.models, stdin=json.dumps(job)))
    else:
        (report,) = site.run((function, {**job, "device": host}))
        value = report["value"]
    result: dict[str, Any] = value
    return result


@pytest.fixture(scope="module", params=["node", "wasm", "webgpu"])
def outcome(request: pytest.FixtureRequest, site: Site, tiny: WebModel) -> dict[str, Any]:
    """Return the results of generate() for all batches, and the host."""
    job = {"name": tiny.folder.name, "batches": [prompts(lengths) for lengths in BATCHES], "steps": STEPS}
    return {"host": request.param, **run(site, request.param, "runModel", job)}


@pytest.mark.parametrize("index", range(len(BATCHES)), ids=[str(lengths) for lengths in BATCHES])
def test_logits_and_ids_are_the_reference_s(outcome: dict[str, Any], tiny: WebModel, index: int) -> None:
    tiny.check_greedy(outcome["results"][index], prompts(BATCHES[index]), STEPS)


def test_the_cache_stays_on_the_device(outcome: dict[str, Any]) -> None:
    expected = ["gpu-buffer"] if outcome["host"] == "webgpu" else ["cpu"]
    assert all(result["locations"] == expected for result in outcome["results"])


@pytest.fixture(scope="module")
def smollm2(site: Site) -> str:
    """Export SmolLM2 in one file of weights, and in three."""
    web_model(smollm2_gguf(), site.models / "smollm2-1")
    folder = web_model(smollm2_gguf(), site.models / "smollm2-3", shard_size=50_000_000).folder
    assert len(list(folder.glob("onnx/model.onnx_data*"))) == 3
    return "smollm2"


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("host", ["node", "wasm"])
def test_a_plain_pipeline_writes_our_generator_s_text(
    site: Site, smollm2: str, generator: Generator, host: str, shards: int
) -> None:
    job = {"name": f"{smollm2}-{shards}", "prompts": [PROMPT, MESSAGES], "newTokens": STEPS}
    text, chat = run(site, host, "runPipeline", job)["texts"]
    continued = generator.generate(PROMPT, SamplingParams(temperature=0, max_new_tokens=STEPS)).text
    assert text == PROMPT + continued
    assert chat == [*MESSAGES, {"role": "assistant", "content": reply(generator, MESSAGES, STEPS)}]


def test_the_program_for_node_writes_our_generator_s_texts(
    site: Site, smollm2: str, generator: Generator, tmp_path: Path
) -> None:
    (tmp_path / "program.mjs").write_text(example("transformers-js.md", "Node", "js"), encoding="utf-8")
    (tmp_path / "node_modules").symlink_to(PACKAGES)
    (tmp_path / "models").symlink_to(site.models)
    printed = run_node(Path("program.mjs"), f"{smollm2}-1", cwd=tmp_path)
    params = SamplingParams(temperature=0, max_new_tokens=24)
    text = "Gravity is" + generator.generate("Gravity is", params).text
    assert printed == f"{text}\n{reply(generator, MESSAGES, 24)}\n"


def test_the_page_of_the_documentation_writes_our_generator_s_text(
    site: Site, smollm2: str, generator: Generator
) -> None:
    """Without WebGPU, and with the package from this machine instead of a CDN."""
    page = example("transformers-js.md", "A page", "html")
    page = page.replace('"smollm2"', f'"{smollm2}-1"')
    package = "/node_modules/@huggingface/transformers/"
    page, count = re.subn(r'"https://cdn\S+"', f'"{package}dist/transformers.min.js"', page)
    assert count == 1
    wasm = f'  env.backends.onnx.wasm.wasmPaths = location.origin + "{package}node_modules/onnxruntime-web/dist/";\n'
    page = page.replace("  env.localModelPath", wasm + "  env.localModelPath")
    body = "<body><script>delete Navigator.prototype.gpu</script>"
    (site.folder / "example.html").write_text(body + page, encoding="utf-8")
    (report,) = site.run(("readText", {"url": "/example.html"}))
    text = generator.generate("Gravity is", SamplingParams(temperature=0, max_new_tokens=24)).text
    assert report["value"].strip() == "Gravity is" + text


def test_a_plain_pipeline_chats_on_webgpu(site: Site, tiny_chat: WebModel, tmp_path: Path) -> None:
    """With a small model, whose texts are not words: WebGPU is computed in software here."""
    job = {"name": tiny_chat.folder.name, "prompts": [MESSAGES], "newTokens": 8}
    (chat,) = run(site, "webgpu", "runPipeline", job)["texts"]
    folder = export(tiny_chat.gguf, tmp_path / "any", activations="float32").output
    expected = reply(Generator.from_folder(folder), MESSAGES, 8)
    assert chat == [*MESSAGES, {"role": "assistant", "content": expected}]
