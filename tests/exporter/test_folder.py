"""The export folder appears whole or not at all, and nothing that is not ours is replaced."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as T
from llama3_exporter import export, folder
from llama3_exporter.folder import unnamed_file
from llama3_models.errors import Llama3Error
from tokenizers import Tokenizer

from tests.support.llama_gguf import write_llama_gguf
from tests.support.manifests import described
from tests.support.processes import take_interrupts


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_llama_gguf(tmp_path / "model.gguf", types=T.Q4_K)


def test_a_folder_holds_what_hosts_read(gguf: Path, tmp_path: Path) -> None:
    summary = export(gguf, tmp_path / "deep" / "out")
    names = {path.name for path in (tmp_path / "deep" / "out").iterdir()}
    assert names == {
        "model.onnx",
        "model.onnx.data",
        "llama3.json",
        "genai_config.json",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert summary.written_bytes == sum(path.stat().st_size for path in summary.output.iterdir())
    facts = json.loads((summary.output / "llama3.json").read_text())
    sha256 = subprocess.run(["sha256sum", gguf], capture_output=True, text=True, check=True).stdout.split()[0]
    assert facts["source"] == {
        "name": "model.gguf",
        "size": gguf.stat().st_size,
        "parts": [{"name": "model.gguf", "sha256": sha256}],
    }
    assert facts["options"]["activations"] == "int8"
    assert sum(use["parameters"] for use in facts["types"].values()) == summary.parameters


def test_an_export_is_replaced_only_with_force(gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(gguf, out)
    with pytest.raises(Llama3Error, match="--force"):
        export(gguf, out)
    export(gguf, out, force=True, activations="float32")
    assert json.loads((out / "llama3.json").read_text())["options"]["activations"] == "float32"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf", "out"]


@pytest.mark.parametrize(
    "options",
    [{"shard_size": 10**6}, {"tokenizer_graph": True}, {"ops": "native"}, {"ops": "native", "tokenizer_graph": True}],
)
def test_whatever_an_export_wrote_may_be_replaced(gguf: Path, tmp_path: Path, options: dict[str, object]) -> None:
    export(gguf, tmp_path / "out", **options)
    export(gguf, tmp_path / "out", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf", "out"]


def test_a_stranger_s_folder_is_never_replaced(gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "photos"
    out.mkdir()
    (out / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(Llama3Error, match="not written by llama3-export"):
        export(gguf, out, force=True)
    assert [path.name for path in out.iterdir()] == ["cat.jpg"]


def test_a_file_that_somebody_put_into_an_export_is_never_deleted(gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(gguf, out)
    (out / "my notes.txt").write_text("notes")
    with pytest.raises(Llama3Error, match=r"my notes\.txt, which no export wrote"):
        export(gguf, out, force=True)
    assert (out / "my notes.txt").read_text() == "notes"


def test_a_folder_in_the_place_of_an_export_s_file_is_never_deleted(gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(gguf, out)
    (out / "tokenizer.onnx").mkdir()
    with pytest.raises(Llama3Error, match=r"tokenizer\.onnx, which no export wrote"):
        export(gguf, out, force=True)
    assert (out / "tokenizer.onnx").is_dir()


def test_a_tokenizer_that_is_not_supported_costs_only_the_tokenizer(gguf: Path, tmp_path: Path) -> None:
    data = gguf.read_bytes()
    assert b"llama-bpe" in data
    gguf.write_bytes(data.replace(b"llama-bpe", b"llama-xyz"))
    summary = export(gguf, tmp_path / "out")
    assert "--tokenizer-path" in summary.warnings[0]
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_merges_that_other_apps_cannot_follow_are_a_warning(tmp_path: Path) -> None:
    """llama3-run can follow them, so the folder has the tokenizer. A graph alone has none for other apps."""
    gguf = write_llama_gguf(tmp_path / "model.gguf")
    data = gguf.read_bytes()
    merge = b"in g"
    assert data.count(merge) == 1
    gguf.write_bytes(data.replace(merge, b"i ng"))  # no merge forms "ng"
    (warning,) = export(gguf, tmp_path / "out").warnings
    assert "merge 'i ng' contains 'ng', which is not a token" in warning
    assert "Hugging Face's tokenizers" in warning
    assert export(gguf, None, ops="native").warnings == ()
    with pytest.raises(Exception, match="ng"):
        Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_a_gguf_without_a_tokenizer_is_a_warning(tmp_path: Path) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf", tokenizer=None)
    for output, ops in ((tmp_path / "out", "contrib"), (tmp_path / "native", "native"), (None, "native")):
        (warning,) = export(gguf, output, ops=ops).warnings
        assert warning.startswith(f"{gguf}: has no tokenizer; ")


def test_a_context_that_no_table_can_hold(tmp_path: Path) -> None:
    """A file may claim any context, and --max-length sets a smaller one."""
    gguf = write_llama_gguf(tmp_path / "model.gguf", context_length=2**31)
    for options in ({}, {"max_length": 2**28}, {"ops": "native"}):
        with pytest.raises(Llama3Error, match=rf"^{gguf}: .*--max-length"):
            export(gguf, tmp_path / "out", **options)
    assert export(gguf, tmp_path / "out", max_length=1024).max_length == 1024
    assert export(gguf, tmp_path / "native", ops="native", max_length=2**28).max_length == 2**28


def test_a_file_of_that_name_is_never_replaced(gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(Llama3Error, match="a file with this name"):
        export(gguf, gguf, force=True)


def test_an_empty_folder_is_taken(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export(gguf, tmp_path / "out")
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_too_little_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with (
        pytest.raises(Llama3Error, match=r"needs .* GB, but only .* GB is free; free"),
        unnamed_file(tmp_path / "out", 1 << 60),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small tmpfs")
def test_a_disk_that_gets_full_leaves_nothing(gguf: Path, tmp_path: Path) -> None:
    """There is enough space for the weights, but not for the other files as well."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = (export(gguf, tmp_path / "whole").output / "model.onnx.data").stat().st_size
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size + 8192}", "tmpfs", disk], check=True)
    try:
        with pytest.raises(Llama3Error, match=f"^{disk}/out: the disk is full; free some space"):
            export(gguf, disk / "out")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_export_leaves_nothing(tmp_path: Path, signal_number: signal.Signals) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf", types=T.Q4_K, num_layers=8, hidden_size=1024, vocab_size=4096)
    code = (
        "import sys, time\nfrom llama3_exporter import export\n"
        "def slowly(done, total):\n    print(done, flush=True)\n    time.sleep(0.2)\n"
        "export(sys.argv[1], sys.argv[2], progress=slowly)\n"
    )
    command = [sys.executable, "-c", code, str(gguf), str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=take_interrupts)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(signal_number)
    assert process.wait(timeout=20) != 0
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


# Replaces "old" with "new" again and again, each time in a child that is killed one step later. Prints the content that
# is found then, and the files that are left after one more export that is not killed.
KILLED_WHILE_PUBLISHING = """
import json, os, signal, sys
from pathlib import Path
from llama3_exporter.folder import publish_folder

output = Path(sys.argv[1]) / "out"
MANIFEST = sys.argv[2]
EVENTS = ("open", "os.", "shutil.", "ctypes.call_function", "ctypes.dlsym")

def publish(content):
    manifest = json.dumps({**json.loads(MANIFEST), "content": content}).encode()
    files = {"model.onnx": content.encode(), "model.onnx.data": lambda path: path.write_bytes(content.encode() * 1000)}
    publish_folder(output, {**files, "llama3.json": manifest}, force=True)

def found():
    names = sorted(path.name for path in output.iterdir())
    contents = {json.loads((output / "llama3.json").read_text())["content"]}
    contents |= {(output / "model.onnx").read_text(), (output / "model.onnx.data").read_text()[:3]}
    assert (output / "model.onnx.data").stat().st_size == 3000
    assert names == ["llama3.json", "model.onnx", "model.onnx.data"], names
    (content,) = contents
    return content

def kill_at(step):
    def hook(event, arguments):
        nonlocal step
        if event.startswith(EVENTS) and event != "os.kill":
            step -= 1
            if step < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

step, status = 0, 1
while status != 0:
    publish("old")
    child = os.fork()
    if child == 0:
        kill_at(step)
        publish("new")
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL, status
    content = found()
    publish("yet")
    assert found() == "yet"
    print(content, sorted(path.name for path in output.parent.iterdir()))
    step += 1
"""


def test_a_kill_while_publishing_leaves_the_old_folder_or_the_new_one(tmp_path: Path) -> None:
    """The folder is whole, and the next export removes any leftovers."""
    result = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_PUBLISHING, tmp_path, described()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    contents = [line.split()[0] for line in result.stdout.splitlines()]
    assert {line.partition(" ")[2] for line in result.stdout.splitlines()} == {"['out']"}
    olds = contents.count("old")
    assert olds > 10
    assert contents == ["old"] * olds + ["new"] * (len(contents) - olds)


def test_where_folders_cannot_be_swapped_they_are_moved(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "_exchange", lambda *_: False)
    export(gguf, tmp_path / "out")
    export(gguf, tmp_path / "out", force=True, activations="float32")
    assert json.loads((tmp_path / "out" / "llama3.json").read_text())["options"]["activations"] == "float32"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf", "out"]


def test_what_another_export_is_writing_is_left_alone(gguf: Path, tmp_path: Path) -> None:
    dead = tmp_path / ".llama3-export-deadbeef"
    dead.mkdir()
    (dead / "model.onnx.data_12").touch()
    (dead / "onnx").mkdir()
    (dead / "onnx" / "model_q4.onnx_data_3").touch()
    (dead / "unfinished").touch()
    (dead / "model-00001-of-00002.gguf").write_bytes(b"GGUF and half of the rest")
    (tmp_path / ".llama3-export-file_123").touch(0o600)
    busy = tmp_path / ".llama3-export-busybusy"
    busy.mkdir()
    descriptor = os.open(busy, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        export(gguf, tmp_path / "out")
    finally:
        os.close(descriptor)
    assert sorted(path.name for path in tmp_path.iterdir()) == [busy.name, "model.gguf", "out"]


@pytest.mark.parametrize("name", [".llama3-export-notes", ".llama3-export-my_notes1", ".llama3-export-My_Notes"])
def test_what_is_called_like_a_leftover_and_is_none_stays(gguf: Path, tmp_path: Path, name: str) -> None:
    mine = tmp_path / name
    mine.mkdir()
    (mine / "thesis.tex").write_text("thesis")
    inner = tmp_path / ".llama3-export-web_mine" / "onnx"
    inner.mkdir(parents=True)
    (inner / "model.onnx").touch()
    (inner / "thesis.tex").touch()
    (tmp_path / ".llama3-export-link1234").symlink_to(mine)
    (tmp_path / ".llama3-export-my_notes").write_text("notes")
    export(gguf, tmp_path / "out")
    assert (mine / "thesis.tex").read_text() == "thesis"
    assert sorted(path.name for path in inner.iterdir()) == ["model.onnx", "thesis.tex"]
    assert (tmp_path / ".llama3-export-link1234").is_symlink()
    assert (tmp_path / ".llama3-export-my_notes").read_text() == "notes"


@pytest.mark.parametrize("ops", ["contrib", "native"])
@pytest.mark.parametrize("name", ["thesis.tex", "model.onnx.data_x", "model.onnx.data_1/../thesis.tex"])
def test_a_line_of_the_manifest_is_no_permission_to_delete(gguf: Path, tmp_path: Path, ops: str, name: str) -> None:
    out = tmp_path / "out"
    export(gguf, out, ops=ops)
    facts = json.loads((out / "llama3.json").read_text())
    facts["source"]["parts"].append(facts["source"]["parts"][0] | {"name": name})
    facts["weights"] = [{"name": name, "size": 6}]
    (out / "llama3.json").write_text(json.dumps(facts))
    thesis = out / Path(name).name
    thesis.write_text("GGUF thesis")
    with pytest.raises(Llama3Error, match=r"no export wrote|not written by llama3-export"):
        export(gguf, out, force=True)
    assert thesis.read_text() == "GGUF thesis"


def test_another_model_beside_a_native_graph_is_a_stranger(gguf: Path, tmp_path: Path) -> None:
    export(gguf, tmp_path / "out", ops="native")
    other = tmp_path / "out" / "other.gguf"
    other.write_bytes(gguf.read_bytes())
    with pytest.raises(Llama3Error, match=r"other\.gguf, which no export wrote"):
        export(gguf, tmp_path / "out", force=True)
    assert other.is_file()


@pytest.mark.parametrize("swaps", [True, False], ids=["swapped", "moved"])
def test_what_came_while_an_export_was_replaced_is_not_deleted(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool
) -> None:
    exchange = folder._exchange
    thesis = tmp_path / "out" / "thesis.tex"

    def late(output: Path, staging: Path) -> bool:
        if not (staging / "thesis.tex").exists():
            thesis.write_text("thesis")
        return swaps and exchange(output, staging)

    export(gguf, tmp_path / "out")
    monkeypatch.setattr(folder, "_exchange", late)
    with pytest.raises(Llama3Error, match=r"thesis\.tex, which no export wrote"):
        export(gguf, tmp_path / "out", force=True, activations="float32")
    assert thesis.read_text() == "thesis"
    assert json.loads((tmp_path / "out" / "llama3.json").read_text())["options"]["activations"] == "int8"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf", "out"]


@pytest.mark.parametrize("place", ["loop/out", "loop", "n" * 300, "file/out"])
def test_a_place_that_cannot_be_is_one_line(gguf: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(Llama3Error) as caught:
        export(gguf, tmp_path / place)
    assert str(tmp_path) in str(caught.value)
    assert "--output" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_place_as_deep_as_a_path_can_be(gguf: Path, tmp_path: Path) -> None:
    """The path has more parts than Python's recursion limit."""
    deep = tmp_path.joinpath(*("d" * ((3900 - len(str(tmp_path))) // 2)))
    assert len(deep.parts) > sys.getrecursionlimit()
    try:
        assert export(gguf, deep).output.is_dir()
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # pytest cannot remove it


@pytest.mark.parametrize(
    "facts",
    [
        "[" * 100_000,
        "null",
        '{"producer": "llama3-onnx"}',
        '{"producer": "llama3-onnx", "source": {"parts": 1}}',
        "\udcff",
    ],
    ids=["nested", "null", "no source", "no parts", "not UTF-8"],
)
def test_a_folder_with_a_broken_llama3_json_is_a_stranger_s(gguf: Path, tmp_path: Path, facts: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "llama3.json").write_bytes(facts.encode(errors="surrogateescape"))
    with pytest.raises(Llama3Error, match="was not written by llama3-export"):
        export(gguf, out, force=True)


def test_a_newer_export_is_not_replaced(gguf: Path, tmp_path: Path) -> None:
    out = export(gguf, tmp_path / "out").output
    (out / "llama3.json").write_text(described(format_version=99))
    with pytest.raises(Llama3Error, match=r"out: a newer llama3-onnx .*; use another --output"):
        export(gguf, out, force=True)


def test_a_pipe_in_the_place_of_an_export_s_file_is_one_line(gguf: Path, tmp_path: Path) -> None:
    """Opening a pipe would wait for a writer."""
    out = tmp_path / "out"
    out.mkdir()
    os.mkfifo(out / "llama3.json")
    with pytest.raises(Llama3Error, match="was not written by llama3-export"):
        export(gguf, out, force=True)
    os.mkfifo(gguf.with_suffix(".onnx"))
    with pytest.raises(Llama3Error, match="not written by llama3-export"):
        export(gguf, ops="native", force=True)


def test_the_folder_of_the_gguf_itself_is_never_replaced(gguf: Path, tmp_path: Path) -> None:
    """The folder of a native export contains the GGUF, perhaps its only link."""
    export(gguf, tmp_path / "out", ops="native")
    inside = tmp_path / "out" / "model.gguf"
    with pytest.raises(Llama3Error, match="the GGUF is in this folder"):
        export(inside, tmp_path / "out", force=True)
    assert inside.read_bytes() == gguf.read_bytes()


def test_a_shrinking_gguf_is_noticed(gguf: Path, tmp_path: Path) -> None:
    """Another process may change the file during an export."""

    def shrink(done: int, total: int) -> None:
        if done < total:
            os.truncate(gguf, gguf.stat().st_size // 2)

    big = write_llama_gguf(gguf, types=T.Q4_K, num_layers=8, hidden_size=1024, vocab_size=4096)
    with pytest.raises(Llama3Error, match="became shorter"):
        export(big, tmp_path / "out", progress=shrink)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("max_length", [0, -1, 513])
def test_max_length_must_be_within_the_context(gguf: Path, tmp_path: Path, max_length: int) -> None:
    with pytest.raises(Llama3Error, match=r"in 1 \.\. 512"):
        export(gguf, tmp_path / "out", max_length=max_length)


def test_heads_that_onnx_runtime_refuses(tmp_path: Path) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf", head_dim=24)
    with pytest.raises(Llama3Error, match="multiples of 16; use --ops native"):
        export(gguf, tmp_path / "out")
    with pytest.raises(Llama3Error, match="multiples of 16; use another model"):
        export(gguf, tmp_path / "out", target="web")
    export(gguf, tmp_path / "out", ops="native")


def test_heads_that_native_attention_refuses(tmp_path: Path) -> None:
    """They are refused at the export, not when the graph is loaded."""
    gguf = write_llama_gguf(tmp_path / "model.gguf", head_dim=272)
    with pytest.raises(Llama3Error, match=r"272 elements, .* 8 up to 256; use --ops contrib"):
        export(gguf, tmp_path / "out", ops="native")
    assert not (tmp_path / "out").exists()
    export(gguf, tmp_path / "out")


@pytest.mark.parametrize("ops", ["contrib", "native"])
@pytest.mark.parametrize("head_dim", [4, 34, 264])
def test_heads_that_no_graph_computes_get_no_advice_that_fails(tmp_path: Path, head_dim: int, ops: str) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf", head_dim=head_dim)
    with pytest.raises(Llama3Error, match=r"another model$"):
        export(gguf, tmp_path / "out", ops=ops)
    assert not (tmp_path / "out").exists()
