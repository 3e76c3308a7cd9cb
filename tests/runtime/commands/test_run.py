"""`llama3-run`: its options, its output on both streams, and its end, with a small model whose text is known."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from llama3_exporter.export_model import export
from llama3_models.cli.arguments import read_signature
from llama3_models.cli.command_line import run
from llama3_models.cpus import usable_cpus
from llama3_models.errors import Llama3Error
from llama3_models.manifest import ExportOptions, Manifest
from llama3_models.tokenizer.pre_tokenizers import PRE_TOKENIZERS
from llama3_runtime import Generator, SamplingParams
from llama3_runtime.commands import run as commands
from llama3_runtime.model import Model
from llama3_runtime.sequence import Sequence

from tests.support.llama_gguf import write_llama_gguf
from tests.support.metric_lines import METRIC_LABELS
from tests.support.processes import take_interrupts
from tests.support.story import STORY, TOKENS, write_story_gguf


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_story_gguf(tmp_path_factory.mktemp("story") / "story.gguf")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Export the model once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("LLAMA3_CACHE", str(folder))
        yield folder


@pytest.fixture
def generators(monkeypatch: pytest.MonkeyPatch) -> list[Generator]:
    """All generators that were loaded."""
    loaded: list[Generator] = []
    original = Generator.__init__

    def noted(self: Generator, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        loaded.append(self)

    monkeypatch.setattr(Generator, "__init__", noted)
    return loaded


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[SamplingParams]:
    """The parameters of all generations."""
    found: list[SamplingParams] = []
    original = Generator.stream

    def noted(self: Generator, prompt: str, params: SamplingParams, progress: object) -> object:
        found.append(params)
        return original(self, prompt, params, progress)  # type: ignore[arg-type]

    monkeypatch.setattr(Generator, "stream", noted)
    return found


@pytest.fixture
def call(gguf: Path) -> Callable[..., int]:
    def called(*words: str) -> int:
        words = (
            words if any(word.startswith(("--model", "-m")) for word in words) else ("--model-path", str(gguf), *words)
        )
        declared = {"groups": commands.GROUPS, "letters": commands.LETTERS, "meant": commands.meant}
        return run(commands.run_model, words, name="llama3-run", **declared)

    return called


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C during the sixth token, after two bytes of the text's four-byte character."""
    original = Sequence.accept

    def accept(self: Sequence, logits: object) -> object:
        if len(self.ids) - self.prompt_size == 5:
            raise KeyboardInterrupt
        return original(self, logits)  # type: ignore[arg-type]

    monkeypatch.setattr(Sequence, "accept", accept)


def test_defaults(call, generators, asked, capsys):
    """Options of the predecessor have the same defaults here."""
    assert call() == 0
    (generator,) = generators
    assert (generator.model.max_length, generator.model.device) == (512, "cpu")
    assert generator.model.threads == usable_cpus()
    assert asked == [SamplingParams()]
    assert capsys.readouterr().out == "I believe the meaning of life iser:x\n"  # what follows an s in the story


def test_options_of_sampling(call, asked):
    assert (
        call(
            *("--max-new-tokens", "5", "--stop", "a", "--stop", "b", "--ignore-eos"),
            *("--temperature", "0", "--top-k", "4", "--top-p", "0.9", "--min-p", "0.1", "--repeat-penalty", "1.1"),
            *("--seed", "12"),
        )
        == 0
    )
    assert asked == [
        SamplingParams(
            temperature=0.0,
            top_k=4,
            top_p=0.9,
            min_p=0.1,
            repeat_penalty=1.1,
            seed=12,
            max_new_tokens=5,
            stop=("a", "b"),
            ignore_eos=True,
        )
    ]


def test_options_of_the_machine(call, generators, monkeypatch):
    """The warm-up has one token; BOS and the prompt's 19 tokens follow in chunks of 7."""
    lengths: list[int] = []
    original = Model.forward

    def noted(self: Model, ids: list[int], **options: object) -> object:
        lengths.append(len(ids))
        return original(self, ids, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Model, "forward", noted)
    options = ("--threads", "3", "--max-length", "99", "--chunk-size", "7", "--warmup-pipeline")
    assert call(*options, "--prompt", "q" * 19, "--max-new-tokens", "2") == 0
    (generator,) = generators
    assert (generator.model.threads, generator.model.max_length) == (3, 99)
    assert lengths == [1, 7, 7, 6, 1]


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], ExportOptions]:
    """Return the options of the only export in a new cache."""
    monkeypatch.setenv("LLAMA3_CACHE", str(tmp_path))

    def found() -> ExportOptions:
        (graph,) = tmp_path.glob("exports/*/onnx/model.onnx")
        metadata = onnx.load(graph, load_external_data=False).metadata_props
        return Manifest.of_graph({entry.key: entry.value for entry in metadata}, graph).options

    return found


@pytest.mark.parametrize("ops", ["native", "contrib"])
def test_ops(call, exported, ops):
    assert call("--ops", ops) == 0
    assert (exported().ops, exported().precision) == (ops, "fp32")


def test_another_tokenizer(call, generators, gguf, tmp_path):
    """The tokenizer of another file is used; its tokens are the same here."""
    other = tmp_path / "other.gguf"
    other.write_bytes(gguf.read_bytes())
    assert call("--tokenizer-path", str(other), "--prompt", "A") == 0
    assert call("--tokenizer-path", str(tmp_path / "gone.json"), "--prompt", "A") == 1
    assert len(generators) == 1


@pytest.fixture(scope="module")
def unnamed_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose file does not name its pre-tokenizer."""
    path = write_llama_gguf(tmp_path_factory.mktemp("unnamed") / "old.gguf")
    content = path.read_bytes()
    assert content.count(b"tokenizer.ggml.pre") == 1
    path.write_bytes(content.replace(b"tokenizer.ggml.pre", b"tokenizer.ggml.xyz"))
    return path


@pytest.mark.parametrize("ops", ["native", "contrib"])
def test_a_file_that_names_no_pre_tokenizer(call, generators, unnamed_gguf, caplog, ops):
    """There is a warning each time, and --pre-tokenizer changes the tokenizer without another export."""
    options = ("--model-path", str(unnamed_gguf), "--ops", ops, "--prompt", "don't 1234", "--max-new-tokens", "1")
    for count in (1, 2):
        assert call(*options) == 0
        assert caplog.text.count("old.gguf: its pre-tokenizer is not named") == count
    folders = set(Path(os.environ["LLAMA3_CACHE"]).glob("exports/old-*"))
    assert call(*options, "--pre-tokenizer", "llama-bpe") == 0
    assert set(Path(os.environ["LLAMA3_CACHE"]).glob("exports/old-*")) == folders
    assert len(caplog.records) == 2
    used = [generator.tokenizer.vocabulary.model.pre_tokenizer for generator in generators]
    assert used == [PRE_TOKENIZERS[name] for name in ("default", "default", "llama-bpe")]


def test_a_pre_tokenizer_for_an_export(call, generators, unnamed_gguf, tmp_path, caplog):
    """The export has the name that it was made with; another one is only for this run, and a warning says so."""
    folder = tmp_path / "onnx"
    export(unnamed_gguf, folder, pre_tokenizer="qwen2")
    options = ("--model-path", str(folder), "--prompt", "don't 1234", "--max-new-tokens", "1")
    assert call(*options) == 0
    assert not caplog.records
    assert call(*options, "--pre-tokenizer", "gpt-2") == 0
    (record,) = caplog.records
    assert "onnx: using the pre-tokenizer gpt-2 in this run" in record.getMessage()
    used = [generator.tokenizer.vocabulary.model.pre_tokenizer for generator in generators]
    assert [kind.steps for kind in used] == [PRE_TOKENIZERS[name].steps for name in ("qwen2", "gpt-2")]


def test_a_library_of_ops_that_there_is_not(call, tmp_path, capsys):
    assert call("--custom-ops-path", str(tmp_path / "ops.so")) == 1
    assert "no such library of custom ops" in capsys.readouterr().err


def test_an_encoding_that_the_file_has_not(call, capsys):
    assert call("--quantization-encoding", "q6_k") == 1
    assert "its weights are float32, not q6_k" in capsys.readouterr().err


def test_text_on_standard_output_and_metrics_on_standard_error(call, capsys):
    """The unchanged prompt comes first, and the metrics have the predecessor's order."""
    assert call("--prompt", " Not\t", "--warmup-pipeline") == 0
    out, err = capsys.readouterr()
    assert out == f" Not\t{STORY}\n"
    assert [line.split(":")[0] for line in err.splitlines()] == METRIC_LABELS
    assert err.startswith(f"Prompt size: 6\nOutput size: {len(TOKENS)}\n")


def test_pieces_are_written_as_they_come(call, monkeypatch):
    """A piece is flushed before the next token is computed."""

    class Terminal(io.StringIO):
        encoding = "utf-8"
        flushed: list[str] = []  # noqa: RUF012

        def flush(self) -> None:
            self.flushed.append(self.getvalue())

    monkeypatch.setattr(sys, "stdout", Terminal())
    call("--prompt", "A")
    assert Terminal.flushed[:5] == ["A", "Ab", "Abc", "Abcd", "Abcd\U0001f600"]


def test_without_streaming_all_is_written_at_the_end(call, capsys):
    assert call("--prompt", "A", "--no-stream") == 0
    assert capsys.readouterr().out == f"A{STORY}\n"


def test_json_is_the_only_output(call, capsys):
    assert call("--prompt", "A", "--json", "--max-new-tokens", "7") == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert err == ""
    assert result["prompt"] == "A"
    assert result["text"] == "bcd\U0001f600"
    assert result["ids"] == [98, 99, 100, 240, 159, 152, 128]  # the ids of bytes are their values
    assert result["finish_reason"] == "length"
    assert result["metrics"]["prompt_size"] == 2  # with BOS
    assert result["metrics"]["output_size"] == 7
    assert result["metrics"]["kv_cache_bytes"] == 2 * 2 * 512 * 2 * 48 * 2  # layers, k and v, positions, float16
    assert result["metrics"]["warmup_seconds"] is None


@pytest.mark.parametrize(
    ("words", "reason", "text"),
    [
        ([], "eos", STORY),
        (["--max-new-tokens", "0"], "length", ""),
        (["--max-new-tokens", "5"], "length", "bcd\ufffd"),
        (["--stop", "User:"], "stop", "bcd\U0001f600\n"),
        (["--stop", "xyz", "--stop", "cd"], "stop", "b"),
    ],
)
def test_finish_reasons(call, capsys, words, reason, text):
    assert call("--prompt", "A", "--json", *words) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["finish_reason"], result["text"]) == (reason, text)


@pytest.mark.parametrize(
    "error", [Llama3Error("the disk is gone"), KeyboardInterrupt()], ids=["error", "second Ctrl-C"]
)
def test_an_error_after_streamed_text_starts_on_a_line_of_its_own(call, monkeypatch, capsys, error):
    from llama3_runtime.generator import Generation

    real, count = Generation.__next__, 0

    def fail_later(generation):
        nonlocal count
        count += 1
        if count > 2:
            raise error
        return real(generation)

    monkeypatch.setattr(Generation, "__next__", fail_later)
    status = call("--prompt", "Not")
    captured = capsys.readouterr()
    assert captured.out.startswith("Not")
    assert captured.out.endswith("\n")
    assert (status, captured.err) == (
        (1, "llama3-run: error: the disk is gone\n") if isinstance(error, Llama3Error) else (130, "")
    )
    assert call("--prompt", "Not", "--json") == status
    assert capsys.readouterr().out == ""


def test_ctrl_c_keeps_what_was_generated(call, interrupted, capsys):
    """The text so far is printed, including half a character, then the metrics; the exit status is 130."""
    assert call("--prompt", "A") == 130
    out, err = capsys.readouterr()
    assert out == "Abcd\ufffd\n"
    assert "Output size: 5" in err
    assert call("--prompt", "A", "--json") == 130
    result = json.loads(capsys.readouterr().out)
    assert (result["text"], result["finish_reason"]) == ("bcd\ufffd", "interrupt")


def test_a_prompt_that_does_not_fit_is_not_echoed(call, capsys):
    assert call("--prompt", "q" * 41, "--max-length", "40") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "the prompt has 42 tokens, more than --max-length 40" in err
    assert "raise --max-length (up to 512)" in err
    assert call("--prompt", "q" * 512, "--max-length", "40") == 1  # too long for any --max-length
    assert "raise --max-length" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "prompt"),
    [(b"two\nlines\n", "two\nlines"), (b"", ""), (b"\r\n", ""), (b" x \n\n", " x \n"), (b"\xc3\xa9", "\u00e9")],
)
def test_prompt_from_standard_input(call, capsys, monkeypatch, given, prompt):
    """The prompt is unchanged, without the newline that `echo` and editors add."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    assert call("--prompt", "-", "--json") == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == prompt


def test_standard_input_that_is_no_text_is_one_line(call, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ab\xff")))
    assert call("--prompt", "-") == 1
    assert "not UTF-8 (byte 2)" in capsys.readouterr().err


def test_endless_standard_input_is_refused(call, capsys, monkeypatch):
    """Input like that of `yes |` would fill all memory before anything could say that it does not fit."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Endless())))
    assert call("--prompt", "-") == 1
    assert "standard input: has more than 16,777,216 bytes" in capsys.readouterr().err


class Endless(io.RawIOBase):
    """An endless stream of zeros."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:
        return len(buffer)


def test_short_options(call, generators, capsys):
    assert call("-p", "A", "-n", "2", "--quiet") == 0
    assert call("-pA") == 2
    assert call("-n3", "-p", "A", "--quiet") == 0
    assert capsys.readouterr().out == "Abc\nAbcd\n"
    assert call("-m", "no-such-model") == 1
    assert "no-such-model" in capsys.readouterr().err


@pytest.mark.parametrize("prompt", ["--2 3", "--", "-h", "--x", "- a list"])
def test_a_prompt_that_looks_like_an_option(call, capsys, prompt):
    assert call("--prompt", prompt, "--max-new-tokens", "0", "--quiet") == 0
    assert capsys.readouterr() == (f"{prompt}\n", "")


@pytest.mark.parametrize(
    ("content", "prompt"),
    [
        (b"two\nlines\n", "two\nlines"),
        (b"\xef\xbb\xbfmark\r\n", "mark"),
        (b"--2 3", "--2 3"),
        (b"-\n", "-"),
        (b"", ""),
        (b" x \n\n", " x \n"),
    ],
)
def test_prompt_from_a_file(call, capsys, tmp_path, content, prompt):
    """The rules are those of standard input; a lone dash in the file is text."""
    (tmp_path / "prompt.txt").write_bytes(content)
    assert call("--prompt-file", str(tmp_path / "prompt.txt"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == prompt


def test_prompt_files_that_cannot_be_read(call, capsys, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    for name, message in (
        ("gone.txt", f"{tmp_path}/gone.txt: No such file or directory"),
        ("", f"{tmp_path}: Is a directory"),
        ("latin.txt", f"{tmp_path}/latin.txt: not UTF-8 (byte 3); "),
    ):
        assert call("--prompt-file", str(tmp_path / name)) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith(f"llama3-run: error: {message}")


def test_quiet(call, capsys, tmp_path, monkeypatch):
    """--quiet hides figures and the notice of an export, but not warnings."""
    monkeypatch.setenv("LLAMA3_CACHE", str(tmp_path))
    assert call("-p", "A", "--quiet", "--ops", "contrib") == 0
    assert capsys.readouterr() == (f"A{STORY}\n", "")
    monkeypatch.setenv("LLAMA3_CACHE", str(tmp_path / "other"))
    assert call("-p", "A", "--ops", "contrib") == 0
    assert capsys.readouterr().err.startswith("Exporting story.gguf to ")


RAISE = "is full; raise --max-length (up to 512)"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], None),
        (["-n", "5"], "Stopped: after --max-new-tokens 5"),
        (["-n", "0"], "Stopped: after --max-new-tokens 0"),
        (["--stop", "zz", "--stop", "c"], "Stopped: at --stop 'c'"),
        (["--stop", "\n"], r"Stopped: at --stop '\n'"),
        (["--max-length", "8"], f"Stopped: the KV cache of 8 positions {RAISE}"),
        (["--max-length", "8", "-n", "6"], "Stopped: after --max-new-tokens 6"),
        (
            ["--max-length", "8", "-n", "7"],
            f"Stopped: the KV cache of 8 positions {RAISE}",
        ),
        (
            ["--max-length", "512", "-p", "q" * 505],
            "Stopped: the model's context of 512 positions is full",
        ),
        (["--max-length", "2"], f"Stopped: the KV cache of 2 positions {RAISE}"),
    ],
)
def test_why_it_stopped(call, capsys, words, line):
    """The advice would help: at the model's context, it does not say to raise --max-length."""
    assert call(*([] if "-p" in words else ["-p", "A"]), *words) == 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == line if line else last.startswith("KV cache memory")


@pytest.mark.parametrize(
    ("stop", "advice"),
    [
        (r"\n", r"the letter n; for a newline, write $'\n' (bash, zsh)"),
        (r"\nUser:", r"the letter n; for a newline, write $'\nUser:' (bash, zsh)"),
        (r"\\n", None),
        (r"\\t", None),
        (r"###\n\n", r"the letter n; for a newline, write $'###\n\n' (bash, zsh)"),
        (r"a\r", r"the letter r; for a carriage return, write $'a\r' (bash, zsh)"),
        (r"\t", r"the letter t; for a tab, write $'\t' (bash, zsh)"),
        (r"\end{itemize}", None),
        (r"\newline", None),
        ("\n", None),
    ],
)
def test_escapes_in_a_stop_text(call, asked, caplog, stop, advice):
    """Escapes are plain text, as in other options; a warning says so if a newline was probably meant."""
    assert call("-p", "A", "--stop", stop) == 0
    assert asked[0].stop == (stop,)
    assert caplog.messages == ([] if advice is None else [f"--stop '{stop}' stops at a backslash and {advice}"])


def test_another_encoding_of_standard_output(call, capsys, monkeypatch, caplog):
    """The text is complete in UTF-8, and a warning says so."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    assert call("--prompt", "\u20ac") == 0
    assert raw.getvalue().decode("utf-8").startswith(f"\u20ac{STORY}")
    assert "latin-1" in caplog.text


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--max-length", "0"], 2, "--max-length must be 1 or more, not 0"),
        (["--threads", "0"], 2, "--threads must be 1 or more"),
        (["--chunk-size", "-1"], 2, "--chunk-size must be 1 or more"),
        (["--min-p", "1.5"], 2, "--min-p must be between 0 and 1, not 1.5"),
        (["--min-p=-0.1"], 2, "--min-p must be between 0 and 1"),
        (["--stop", ""], 2, "--stop must be a text"),
        (["--quantization-encoding", "q8_0"], 2, "expected one of q4_0, q4_1, q4_k, q6_k, bf16, float32"),
        (["--version", "3.2"], 2, "expected one of 3.0, 3.1"),
        (["--pre-tokenizer", "llama-bpee"], 2, "unknown name 'llama-bpee'; did you mean llama-bpe"),
        (["--promt", "x"], 2, "did you mean --prompt?"),
        (["--seed", "1", "--seed", "2"], 2, "--seed is given twice"),
        (["hello"], 2, "unexpected argument 'hello'; put --prompt before it"),
        (["-p", "hello", "world"], 2, "unexpected argument 'world'; put quotes around a text with spaces"),
        (["--interactive"], 2, "unknown option '--interactive' (see"),
        (["-p", "a", "--prompt-file", "b"], 2, "--prompt and --prompt-file cannot be used together"),
    ],
)
def test_wrong_options_load_nothing(call, generators, capsys, words, status, message):
    assert call(*words) == status
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert generators == []


def test_a_file_without_an_option(capsys, gguf):
    """The name shows that it is the model, whether the file exists or not."""
    for word in (str(gguf), "gone.gguf", str(gguf.parent)):
        assert run(commands.run_model, [word], name="llama3-run", meant=commands.meant) == 2
        assert f"unexpected argument {word!r}; put --model before it (see" in capsys.readouterr().err


def test_help_shows_every_option_once_with_its_default(call, capsys):
    options = read_signature(commands.run_model, commands.LETTERS)
    assert sorted(name for names in commands.GROUPS.values() for name in names) == sorted(o.name for o in options)
    assert call("--help") == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) < 80
    for option in options:
        form = f"--[no-]{option.flag[2:]}" if option.type is bool else f"{option.flag} "
        entry = page.split(f"  -{option.letter}, {form}" if option.letter else f"  {form}", 1)[1]
        assert "default:" in entry.split("\n  -")[0], option.flag
    for default in ["q4_k", "3.1", "512", "-1", "0.5", "0.05", "I believe the meaning of life"]:
        assert default in " ".join(page.split())


@pytest.mark.parametrize("module", ["run", "bench"])
def test_help_waits_for_no_heavy_import(module):
    """ONNX Runtime needs a second or two to load; help without it needs 0.2 s."""
    script = f"""
import sys
from llama3_runtime.commands import {module}
sys.argv = ["command", "--help"]
assert {module}.main() == 0
heavy = {{"numpy", "onnx", "onnxruntime", "onnx_ir", "tiktoken", "gguf", "huggingface_hub", "llama3_exporter"}}
print(heavy & sys.modules.keys(), file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stderr == "set()\n"
    assert "usage:" in result.stdout


@pytest.mark.parametrize(("provider", "status"), [("cuda", 1), ("auto", 0)])
def test_an_export_for_cuda(call, exported, monkeypatch, capsys, caplog, provider, status):
    """CUDA needs contrib ops and float16. If CUDA does not start, `auto` runs the same export on the CPU."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert call("--provider", provider) == status
    assert (exported().ops, exported().precision) == ("contrib", "fp16")
    assert "CUDA" in capsys.readouterr().err + caplog.text


def test_the_two_models_exclude_each_other(call, capsys):
    assert call("--model", "smollm2-135m", "--model-path", "x.gguf") == 2
    assert "--model-path and --model cannot be used together" in capsys.readouterr().err


def test_auto_without_cuda_says_once_that_it_runs_on_the_cpu(call, caplog):
    assert call("--provider", "auto") == 0
    (message,) = caplog.messages
    assert re.fullmatch("the installed onnxruntime .* CUDA .*; running on the CPU", message)


@pytest.fixture(scope="module")
def endless_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_story_gguf(tmp_path_factory.mktemp("endless") / "endless.gguf", endless=True, context_length=200_000)


def endless(gguf: Path) -> subprocess.Popen[bytes]:
    """Start a process that runs for about a minute; its export is in the cache."""
    command = [Path(sys.executable).parent / "llama3-run", "--model-path", gguf]
    command += ["--prompt", "line\n!", "--max-length", "200000"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, preexec_fn=take_interrupts)


def test_a_closed_pipe_ends_quietly(endless_gguf):
    """`llama3-run | head -1` stops generating without a message."""
    with endless(endless_gguf) as process:
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.wait(timeout=60) == 141
        assert process.stderr.read() == b""


def test_ctrl_c_of_a_real_process(endless_gguf):
    with endless(endless_gguf) as process:
        assert process.stdout.readline() == b"line\n"
        assert process.stdout.read(4) == b"!bcd"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    text = "bcd" + out.decode()
    assert text.endswith("\n")
    assert (STORY * (len(text) // len(STORY) + 1)).startswith(text[:-1].removesuffix("\ufffd"))
    assert b"Traceback" not in err
    assert re.match(rb"Prompt size: 6\nOutput size: \d", err)
