"""Any engine with six C functions can be compared with ours."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from llama3_exporter import export
from llama3_models.cli.command_line import run
from llama3_runtime.bench.library_peer import LibraryPeer
from llama3_runtime.commands.bench import GROUPS, bench

from tests.support.llama_gguf import write_llama_gguf

# An engine whose logits show its arguments: the last token, the position, and how it was opened.
SOURCE = """
static float logits[320];
static int length, opened[3];
const char *peer_name(void) { return "echo"; }
void *peer_open(const char *gguf, int threads, int max_length, int chunk_size) {
  opened[0] = threads; opened[1] = max_length; opened[2] = chunk_size;
  return gguf[0] ? opened : 0;
}
int peer_vocab_size(void *handle) { return 320; }
const float *peer_forward(void *handle, const int *ids, int count) {
  if (count > opened[2]) return 0;
  length += count;
  logits[0] = ids[count - 1]; logits[1] = length; logits[2] = opened[0]; logits[3] = opened[1];
  return logits;
}
void peer_rewind(void *handle, int position) { length = position; }
void peer_close(void *handle) { length = -1; }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here")
    folder = tmp_path_factory.mktemp("peer")
    (folder / "echo.c").write_text(SOURCE)
    path = folder / "libecho.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", path, folder / "echo.c"], check=True)
    return path


def test_the_library_gets_what_the_bench_asks_for(library: Path) -> None:
    """Chunks, positions and sizes reach the library."""
    with LibraryPeer(library, Path("any.gguf"), threads=3, max_length=64, chunk_size=16) as engine:
        assert (engine.name, engine.vocab_size) == ("echo", 320)
        assert engine.prefill(range(100, 140))[:4].tolist() == [139, 40, 3, 64]
        engine.rewind(20)
        assert engine.forward([7]).shape == (1, 320)
        assert engine.forward([8])[0, :2].tolist() == [8, 22]


def call(*arguments: str) -> int:
    return run(bench, list(arguments), name="llama3-bench", groups=GROUPS)


def test_beside_ours(library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is a ratio for every test and peer."""
    gguf = write_llama_gguf(tmp_path / "model.gguf")
    export(gguf, tmp_path / "out")
    sizes = ("--prompt-size", "4", "--output-size", "2", "--repetitions", "1", "--threads", "1", "--json")
    assert call("--model-path", str(tmp_path / "out"), "--gguf", str(gguf), "--compare", str(library), *sizes) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(result["test"], result["engine"]) for result in report["results"]] == [
        ("pp4", "llama3-onnx"),
        ("pp4", "echo"),
        ("tg2", "llama3-onnx"),
        ("tg2", "echo"),
    ]
    assert 0 < report["ratios"]["pp4"]["echo"] < 1


@pytest.mark.parametrize(
    ("peer", "options", "status", "message"),
    [
        ("nothing.so", (), 2, "--compare: 'nothing.so' is neither llama.cpp nor the path of a library"),
        ("FILE", (), 1, "not a library to compare with"),
        ("FILE", ("--perplexity", "FILE"), 2, "only with llama.cpp"),
        ("llama.cpp,", (), 2, "--compare: '' is neither"),
    ],
)
def test_what_is_no_peer_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    peer: str,
    options: tuple[str, ...],
    status: int,
    message: str,
) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf")
    export(gguf, tmp_path / "out")
    (file := tmp_path / "file").write_bytes(b"text")
    arguments = ["--model-path", str(tmp_path / "out"), "--gguf", str(gguf), "--compare", peer, *options]
    assert call(*(argument.replace("FILE", str(file)) for argument in arguments)) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
