"""The page of docs/apps/web runs exports in a real browser, and says what it does and why it cannot."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from llama3_exporter import export
from llama3_runtime import Generator, SamplingParams

from tests.hosts_js.javascript import require_chromium, require_node
from tests.hosts_js.page import NO_WEBGPU, Page, served_page
from tests.hosts_js.web_model import WebModel, reply, web_model
from tests.support.vocabularies import smollm2_gguf

if TYPE_CHECKING:
    from tests.support.sane_qwen import SaneQwen

require_node("onnxruntime-web", "@huggingface/jinja", "@huggingface/tokenizers", "playwright-core")
require_chromium()

PROMPT, NEW_TOKENS = "What is gravity?", 24
MESSAGES = [{"role": "user", "content": PROMPT}]
SHARD_SIZE = 50_000_000
ON_GPU = ("software_gpu.js", "count_buffers.js")


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = web_model(smollm2_gguf(), tmp_path_factory.mktemp("web") / "smollm2", SHARD_SIZE).folder
    assert len(list(folder.glob("onnx/model.onnx_data*"))) == 3
    return folder


@pytest.fixture(scope="module")
def page(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with served_page(tmp_path_factory.mktemp("site"), smollm2) as page:
        yield page


@pytest.fixture(scope="module")
def report(page: Page) -> dict[str, Any]:
    """The first visit, without WebGPU. Its screenshot is docs/apps/images/web.png."""
    screenshot = str(page.folder / "web.png")
    options = {"prompt": PROMPT, "count": NEW_TOKENS, "stop": True, "screenshot": screenshot}
    return page.visit(before=NO_WEBGPU, **options)


def test_the_page_says_where_it_runs_and_why(report: dict[str, Any]) -> None:
    assert (report["errors"], report["error"]) == ([], "")
    assert re.search(
        r"Runs on WebAssembly \(this browser has no WebGPU, \d+ threads?: one per processor, at most 8\)",
        report["device"],
    )


def test_progress_grows_with_the_weights(report: dict[str, Any]) -> None:
    progress = report["progress"]
    assert progress == sorted(progress)
    assert progress[-1] == 1
    assert len(progress) > 10


def test_the_answer_is_our_generator_s(report: dict[str, Any], generator: Generator) -> None:
    assert report["mode"] == "chat"
    assert report["turns"] == [PROMPT, reply(generator, MESSAGES, NEW_TOKENS)]


def test_the_text_comes_token_by_token(report: dict[str, Any]) -> None:
    shown = list(dict.fromkeys(text for text in report["shown"] if text and text != PROMPT))
    assert len(shown) == NEW_TOKENS
    assert all(after.startswith(before) for before, after in pairwise(shown))
    assert float(report["speed"].removesuffix(" tokens/s")) > 0


def test_stop_ends_the_text(report: dict[str, Any], generator: Generator) -> None:
    """It ends a few tokens after the click, not after the thousand that were requested. It answers the whole chat."""
    first = {"role": "assistant", "content": report["turns"][1]}
    text = reply(generator, [*MESSAGES, first, *MESSAGES], 100)
    assert report["stopped"]
    assert text.startswith(report["stopped"])
    assert text != report["stopped"]


def test_a_second_visit_downloads_nothing_and_a_third_needs_no_server(
    smollm2: Path, generator: Generator, tmp_path: Path
) -> None:
    with served_page(tmp_path / "site", smollm2) as page:
        first = page.visit(before=NO_WEBGPU)
        assert re.search(r"The weights are stored in this browser \(\d+ MB\)", first["storage"])
        assert len(first["kept"]["llama3-onnx-weights"]) == 3
        before = page.sent()
        assert [path for path in before if "onnx_data" in path] == [
            f"/model/onnx/model.onnx_data{end}" for end in ("", "_1", "_2")
        ]
        page.visit(before=NO_WEBGPU)
        new = page.sent()[len(before) :]
        assert set(new) <= {"/service-worker.js"}  # the browser's own request
        page.server.terminate()
        page.server.wait()
        third = page.visit(before=NO_WEBGPU, prompt=PROMPT, count=4)
    assert third["error"] == ""
    assert third["turns"] == [PROMPT, reply(generator, MESSAGES, 4)]


def test_another_export_replaces_the_stored_one(tmp_path: Path, tiny: WebModel, tiny_chat: WebModel) -> None:
    """Also one that is older than it."""
    for path in tiny_chat.folder.rglob("*.*"):
        os.utime(path, (1.7e9, 1.7e9))
    with served_page(tmp_path / "site", tiny.folder) as page:
        (old,) = page.visit(before=NO_WEBGPU)["kept"]["llama3-onnx-weights"]
        (page.folder / "model").unlink()
        (page.folder / "model").symlink_to(tiny_chat.folder)
        report = page.visit(before=NO_WEBGPU)
    assert (report["errors"], report["error"]) == ([], "")
    (new,) = report["kept"]["llama3-onnx-weights"]
    assert new != old


def test_a_text_is_continued_as_it_is(page: Page, report: dict[str, Any], generator: Generator) -> None:
    prompt = "The capital of France is"
    found = page.visit(before=NO_WEBGPU, prompt=prompt, count=8, mode="continue")
    text = generator.generate(prompt, SamplingParams(temperature=0, max_new_tokens=8)).text
    assert found["turns"] == [prompt + text]


def test_qwen_s_text_is_llama_cpp_s(sane_qwen: SaneQwen, tmp_path: Path) -> None:
    prompt, text = next(iter(sane_qwen.texts.items()))
    folder = web_model(sane_qwen.gguf, tmp_path / "qwen").folder
    with served_page(tmp_path / "site", folder) as page:
        report = page.visit(before=NO_WEBGPU, prompt=prompt, count=len(sane_qwen.new[prompt]), mode="continue")
    assert (report["errors"], report["error"]) == ([], "")
    assert report["turns"] == [prompt + text]


def test_buffers_of_the_graphics_card_do_not_grow(tmp_path: Path, tiny_chat: WebModel) -> None:
    """After an error, twenty chats, half of them stopped."""
    folder = export(tiny_chat.gguf, tmp_path / "any", activations="float32").output
    with served_page(tmp_path / "site", tiny_chat.folder, in_worker=ON_GPU) as page:
        report = page.visit(prompt=PROMPT, count=4, refused="word " * 1000, chats=20)
    assert report["device"] == "Runs on WebGPU (this browser has WebGPU)."
    expected = reply(Generator.from_folder(folder), MESSAGES, 4)
    assert report["turns"] == [PROMPT, expected.rstrip("\ufffd")]
    assert re.fullmatch(r"The text is too long: \d+ tokens, and the model reads at most 511\.", report["refused"])
    buffers = [found["bytes"] for found in report["buffers"]]
    assert len(buffers) == 20
    assert max(buffers[10:]) <= max(buffers[:10])


def test_without_isolation_there_is_one_thread(tmp_path: Path, tiny_chat: WebModel) -> None:
    with served_page(tmp_path / "site", tiny_chat.folder, isolated=False) as page:
        report = page.visit(before=NO_WEBGPU, prompt=PROMPT, count=4)
    assert "1 thread: the server does not send the headers that threads need" in report["device"]
    assert report["error"] == ""


def test_a_full_disk_is_no_error(page: Page, smollm2: Path, tmp_path: Path, generator: Generator) -> None:
    """The quota has room for the page and the first file of weights, not for the second."""
    quota = 110_000_000
    with served_page(tmp_path / "site", smollm2) as page:
        report = page.visit(before=NO_WEBGPU, quota=quota, prompt=PROMPT, count=4)
    assert report["error"] == ""
    assert re.search(
        r"not stored, so the next visit downloads them again: they need 11\d MB, and the browser has \d+ MB left",
        report["storage"],
    )
    assert report["kept"]["llama3-onnx-weights"] == []
    assert report["turns"] == [PROMPT, reply(generator, MESSAGES, 4)]


LIMIT = "Object.defineProperty(GPUAdapter.prototype, 'limits', {get: () => ({%s: 100000, %s: 2 ** 31})});"
MEMORY = "Object.defineProperty(Navigator.prototype, 'deviceMemory', {get: () => 0.001});"
NAMES = ("maxBufferSize", "maxStorageBufferBindingSize")


@pytest.mark.parametrize("names", [NAMES, NAMES[::-1]], ids=NAMES)
def test_a_small_graphics_card_leaves_it_to_webassembly(
    tmp_path: Path, tiny_chat: WebModel, names: tuple[str, str]
) -> None:
    with served_page(tmp_path / "site", tiny_chat.folder) as page:
        report = page.visit(before=LIMIT % names)
    assert report["device"].startswith(
        "Runs on WebAssembly (the graphics card takes tensors of at most 100 kB and the model has one of 123 kB, "
    )
    assert report["error"] == ""


def test_webgpu_that_fails_leaves_it_to_webassembly(tmp_path: Path, tiny_chat: WebModel) -> None:
    """Both read the same bytes, so the second downloads no weights again."""
    with served_page(tmp_path / "site", tiny_chat.folder, in_worker=["broken_gpu.js"]) as page:
        report = page.visit(prompt=PROMPT, count=4)
        sent = [path for path in page.sent() if "onnx_data" in path]
    assert report["device"].startswith("Runs on WebAssembly (WebGPU cannot open the model (")
    assert report["error"] == ""
    assert sent == ["/model/onnx/model_q4.onnx_data"]


@pytest.mark.parametrize(
    ("before", "error"),
    [
        (
            LIMIT % NAMES + MEMORY,
            r"This model is too large here: the graphics card takes tensors of at most 100 kB and the model has one "
            r"of 123 kB, and WebAssembly needs \d+\.\d+ MB of memory for it but has on this device only 1\.07 MB\. ",
        ),
        (
            "WebAssembly.validate = () => false;",
            r"This browser is too old: it lacks WebAssembly with SIMD\. Update it\.",
        ),
        ("delete globalThis.Worker;", r"This browser is too old: it lacks workers\. Update it\."),
    ],
    ids=["memory", "WebAssembly", "workers"],
)
def test_what_cannot_run_is_said_before_the_download(
    tmp_path: Path, tiny_chat: WebModel, before: str, error: str
) -> None:
    with served_page(tmp_path / "site", tiny_chat.folder) as page:
        report = page.visit(before=before)
        assert not [path for path in page.sent() if "onnx_data" in path]
    assert re.match(error, report["error"]), report["error"]
    assert "\n" not in report["error"]


def test_weights_that_were_cut_are_a_line_on_the_page(tiny_chat: WebModel, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_chat.folder, model)
    with (model / "onnx" / "model.onnx_data").open("r+b") as weights:
        weights.truncate(1000)
    with served_page(tmp_path / "site", model) as page:
        error = page.visit(before=NO_WEBGPU)["error"]
    assert re.search(r"/model/onnx/model\.onnx_data: has 1000 bytes instead of \d+; export the model again", error)


def test_weights_of_another_export_are_a_line_on_the_page(tiny_chat: WebModel, tmp_path: Path) -> None:
    """They are not stored under the checksum that they do not have."""
    model = tmp_path / "model"
    shutil.copytree(tiny_chat.folder, model)
    with (model / "onnx" / "model.onnx_data").open("r+b") as weights:
        weights.write(b"other")
    with served_page(tmp_path / "site", model) as page:
        report = page.visit(before=NO_WEBGPU)
    assert report["error"].endswith(
        "/model/onnx/model.onnx_data: does not have the checksum in llama3.json; export the model again"
    )
    assert report["kept"]["llama3-onnx-weights"] == []


def test_an_export_that_is_not_there_is_a_line_on_the_page(tmp_path: Path) -> None:
    with served_page(tmp_path / "site", None) as page:
        error = page.visit()["error"]
    assert error.startswith(f"{page.url}model/llama3.json: the server says 404")


def test_an_export_for_other_apps_is_a_line_on_the_page(folder: Path, tmp_path: Path) -> None:
    with served_page(tmp_path / "site", folder) as page:
        error = page.visit()["error"]
    assert error == f"{page.url}model: not an export for browsers; export it with --target web"
