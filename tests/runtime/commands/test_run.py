"""`llama3-run`: its options, what it writes where, and how it ends, around a model that says what it is told to."""

import io
import json
import re
import signal
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from llama3_models.cli.arguments import read_signature
from llama3_models.cli.command_line import run
from llama3_models.errors import Llama3Error
from llama3_runtime.commands import run as commands
from llama3_runtime.sampling.params import SamplingParams
from llama3_runtime.source import find as model_source
from llama3_runtime.source.export_cache import Export

from tests.support.metric_lines import METRIC_LABELS
from tests.support.processes import take_interrupts

STORY = [b" to", b" be", b" \xf0\x9f", b"\x98\x80", b"\n", b"User", b":", b" x"]


class FakeTokenizer:
    """A token is a byte of the prompt, or a piece of the story from id 256 on."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def token_bytes(self, token: int) -> bytes:
        return STORY[token - 256]


@dataclass
class FakeGenerator:
    """Tells the story, and notes how it was loaded and asked."""

    options: dict[str, object]
    tokenizer: FakeTokenizer = field(default_factory=FakeTokenizer)
    finish_reason: str | None = None
    model: object = field(default_factory=lambda: types.SimpleNamespace(kv_cache_bytes=1_500_000, warning=None))
    warmed: bool = False
    asked: SamplingParams | None = None

    def warm_up(self) -> None:
        self.warmed = True

    def stream_ids(self, ids: Sequence[int], params: SamplingParams) -> Iterator[int]:
        self.asked = params
        if len(ids) > 40:
            raise Llama3Error("the prompt is too long")
        return self._story(params)

    def _story(self, params: SamplingParams) -> Iterator[int]:
        for index in range(len(STORY)):
            if index == params.max_new_tokens:
                self.finish_reason = "length"
                return
            if params.seed == 130 and index == 3:
                raise KeyboardInterrupt
            yield 256 + index
        self.finish_reason = "eos"


@pytest.fixture
def generators(monkeypatch: pytest.MonkeyPatch) -> list[FakeGenerator]:
    """Every generator that is loaded."""
    loaded: list[FakeGenerator] = []

    class Loader:
        @staticmethod
        def from_folder(path, **options):
            loaded.append(FakeGenerator({"path": path, **options}))
            return loaded[-1]

    class Tokenizer:
        @staticmethod
        def from_path(path):
            return f"tokenizer of {path}"

    monkeypatch.setitem(sys.modules, "llama3_runtime.generator", types.SimpleNamespace(Generator=Loader))
    monkeypatch.setitem(sys.modules, "llama3_runtime.text.tokenizer", types.SimpleNamespace(Tokenizer=Tokenizer))
    monkeypatch.setattr(commands, "find_model", lambda **options: options)
    monkeypatch.setattr(commands, "find_export", lambda model, **options: Export({"model": model, **options}))
    return loaded


def call(*words: str) -> int:
    return run(commands.run_model, words, name="llama3-run", groups=commands.GROUPS)


def test_every_option_with_its_default(generators, capsys):
    """The predecessor's options have its defaults, and each option reaches what it is for."""
    assert call() == 0
    (generator,) = generators
    assert generator.options == {
        "path": {
            "model": {"model_path": None, "model": None, "encoding": None, "version": None},
            "encoding": None,
            "ops": None,
            "precision": "fp32",
        },
        "weights_folder": None,
        "provider": "cpu",
        "threads": None,
        "max_length": None,
        "chunk_size": 512,
        "custom_ops_path": None,
        "tokenizer": None,
    }
    assert generator.asked == SamplingParams()
    assert not generator.warmed
    assert capsys.readouterr().out.startswith("I believe the meaning of life is to be")


def test_every_option_is_passed_on(generators):
    assert (
        call(
            *("--model-path", "m.gguf", "--quantization-encoding", "q6_k", "--version", "3.0"),
            *("--tokenizer-path", "t.json", "--custom-ops-path", "ops.so", "--threads", "3", "--ops", "native"),
            *("--max-length", "99", "--chunk-size", "7", "--max-new-tokens", "5", "--stop", "a", "--stop", "b"),
            *("--temperature", "0", "--top-k", "4", "--top-p", "0.9", "--min-p", "0.1", "--repeat-penalty", "1.1"),
            *("--seed", "12", "--ignore-eos", "--warmup-pipeline"),
        )
        == 0
    )
    (generator,) = generators
    assert generator.options == {
        "path": {
            "model": {"model_path": Path("m.gguf"), "model": None, "encoding": "q6_k", "version": "3.0"},
            "encoding": "q6_k",
            "ops": "native",
            "precision": "fp32",
        },
        "weights_folder": None,
        "provider": "cpu",
        "threads": 3,
        "max_length": 99,
        "chunk_size": 7,
        "custom_ops_path": Path("ops.so"),
        "tokenizer": "tokenizer of t.json",
    }
    assert generator.asked == SamplingParams(
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
    assert generator.warmed


def test_text_on_standard_output_and_metrics_on_standard_error(generators, capsys):
    """The prompt as given comes first, and the metrics' lines stand in the predecessor's order."""
    assert call("--prompt", " Not\t", "--warmup-pipeline") == 0
    out, err = capsys.readouterr()
    assert out == " Not\t to be \U0001f600\nUser: x\n"
    assert [line.split(":")[0] for line in err.splitlines()] == METRIC_LABELS
    assert err.startswith("Prompt size: 5\nOutput size: 8\n")


def test_pieces_are_written_as_they_come(generators, monkeypatch):
    """A piece is flushed before the next token is computed."""

    class Terminal(io.StringIO):
        encoding = "utf-8"
        flushed: list[str] = []  # noqa: RUF012

        def flush(self) -> None:
            self.flushed.append(self.getvalue())

    monkeypatch.setattr(sys, "stdout", Terminal())
    call("--prompt", "A")
    assert Terminal.flushed[:4] == ["A", "A to", "A to be", "A to be "]


def test_without_streaming_all_is_written_at_the_end(generators, capsys):
    assert call("--prompt", "A", "--no-stream") == 0
    assert capsys.readouterr().out == "A to be \U0001f600\nUser: x\n"


def test_json_is_the_only_output(generators, capsys):
    assert call("--prompt", "A", "--json", "--max-new-tokens", "4") == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert err == ""
    assert result["prompt"] == "A"
    assert result["text"] == " to be \U0001f600"
    assert result["ids"] == [256, 257, 258, 259]
    assert result["finish_reason"] == "length"
    assert result["metrics"]["prompt_size"] == 1
    assert result["metrics"]["output_size"] == 4
    assert result["metrics"]["kv_cache_bytes"] == 1_500_000
    assert result["metrics"]["warmup_seconds"] is None


@pytest.mark.parametrize(
    ("words", "reason", "text"),
    [
        ([], "eos", " to be \U0001f600\nUser: x"),
        (["--max-new-tokens", "0"], "length", ""),
        (["--max-new-tokens", "3"], "length", " to be \ufffd"),
        (["--stop", "User:"], "stop", " to be \U0001f600\n"),
        (["--stop", "xyz", "--stop", "be"], "stop", " to "),
    ],
)
def test_finish_reasons(generators, capsys, words, reason, text):
    assert call("--prompt", "A", "--json", *words) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["finish_reason"], result["text"]) == (reason, text)


def test_ctrl_c_keeps_what_was_generated(generators, capsys):
    """The text so far, a half character included, then the metrics, and the status of an interrupted process."""
    assert call("--prompt", "A", "--seed", "130") == 130
    out, err = capsys.readouterr()
    assert out == "A to be \ufffd\n"
    assert "Output size: 3" in err
    assert call("--prompt", "A", "--seed", "130", "--json") == 130
    assert json.loads(capsys.readouterr().out)["finish_reason"] == "interrupt"


def test_a_prompt_that_does_not_fit_is_not_echoed(generators, capsys):
    assert call("--prompt", "x" * 41) == 1
    assert capsys.readouterr() == ("", "llama3-run: error: the prompt is too long\n")


@pytest.mark.parametrize(
    ("given", "prompt"),
    [(b"two\nlines\n", "two\nlines"), (b"", ""), (b"\r\n", ""), (b" x \n\n", " x \n"), (b"\xc3\xa9", "\u00e9")],
)
def test_prompt_from_standard_input(generators, capsys, monkeypatch, given, prompt):
    """As it is, less the line end that `echo` and editors put there."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    assert call("--prompt", "-", "--json") == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == prompt


def test_standard_input_that_is_no_text_is_one_line(generators, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ab\xff")))
    assert call("--prompt", "-") == 1
    assert "not UTF-8 (byte 2)" in capsys.readouterr().err


def test_endless_standard_input_is_refused(generators, capsys, monkeypatch):
    """As of `yes |`: it would take all memory before anything could say that it does not fit."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Endless())))
    assert call("--prompt", "-") == 1
    assert "standard input has more than 16,777,216 bytes" in capsys.readouterr().err


class Endless(io.RawIOBase):
    """A stream of zeros."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:
        return len(buffer)


def test_another_encoding_of_standard_output(generators, capsys, monkeypatch, caplog):
    """The text stays whole, and a warning says so."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    assert call("--prompt", "\u20ac") == 0
    assert raw.getvalue().decode("utf-8").startswith("\u20ac to be \U0001f600")
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
        (["--quantization-encoding", "q8_0"], 2, "expected one of q4_0, q4_k, q6_k, float32"),
        (["--version", "3.2"], 2, "expected one of 3.0, 3.1"),
        (["--promt", "x"], 2, "did you mean --prompt?"),
        (["--seed", "1", "--seed", "2"], 2, "--seed is given twice"),
        (["hello"], 2, "unexpected argument 'hello'"),
    ],
)
def test_wrong_options_load_nothing(generators, capsys, words, status, message):
    assert call(*words) == status
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert generators == []


def test_help_shows_every_option_once_with_its_default(capsys):
    options = read_signature(commands.run_model)
    assert sorted(name for names in commands.GROUPS.values() for name in names) == sorted(o.name for o in options)
    assert call("--help") == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) < 80
    for option in options:
        entry = page.split(f"  --[no-]{option.flag[2:]}" if option.type is bool else f"  {option.flag} ", 1)[1]
        assert "default:" in entry.split("\n  -")[0], option.flag
    for default in ["q4_k", "3.1", "512", "-1", "0.5", "0.05", "I believe the meaning of life"]:
        assert default in page


@pytest.mark.parametrize("module", ["run", "bench"])
def test_help_waits_for_no_heavy_import(module):
    """Which takes a second or two with ONNX Runtime, and help 0.2 s without."""
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


@pytest.mark.parametrize(("provider", "precision"), [("cpu", "fp32"), ("cuda", "fp16"), ("auto", "fp16")])
def test_precision_of_an_export_follows_the_provider(generators, monkeypatch, provider, precision):
    """CUDA's attention needs float16."""
    import onnxruntime

    asked = []

    def find_export(model, **options):
        asked.append(options["precision"])
        return Export(Path("out"))

    monkeypatch.setattr(commands, "find_export", find_export)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert call("--provider", provider) == 0
    assert asked == [precision]


def test_the_two_models_exclude_each_other(generators, monkeypatch, capsys):
    monkeypatch.setattr(commands, "find_model", model_source.find_model)
    assert call("--model", "smollm2-135m", "--model-path", "x.gguf") == 2
    assert "exclude each other" in capsys.readouterr().err


def test_a_warning_of_the_session_is_said_once(monkeypatch, generators, caplog):
    """As of `--provider auto` on a machine without CUDA."""
    warning = "no CUDA here; running on the CPU"
    loader = sys.modules["llama3_runtime.generator"].Generator
    model = types.SimpleNamespace(kv_cache_bytes=0, warning=warning)
    monkeypatch.setattr(loader, "from_folder", lambda path, **options: FakeGenerator(options, model=model))
    assert call("--provider", "auto") == 0
    assert caplog.messages == [warning]


ENDLESS = """
import sys, time, types
from llama3_runtime.commands import run as commands

class Tokenizer:
    encode = staticmethod(lambda text: list(text.encode()))
    token_bytes = staticmethod(lambda token: b"word ")

class Generator:
    tokenizer, finish_reason = Tokenizer, None
    model = types.SimpleNamespace(kv_cache_bytes=0, warning=None)

    @staticmethod
    def from_folder(path, **options):
        return Generator

    @staticmethod
    def stream_ids(ids, params):
        while True:
            time.sleep(0.002)
            yield 0

sys.modules["llama3_runtime.generator"] = types.SimpleNamespace(Generator=Generator)
sys.modules["llama3_runtime.text.tokenizer"] = types.SimpleNamespace(Tokenizer=Tokenizer)
commands.find_model = lambda **options: None
commands.find_export = lambda model, **options: types.SimpleNamespace(path=None, weights_folder=None)
sys.exit(commands.main())
"""


def endless(*words: str, **options: object) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", textwrap.dedent(ENDLESS), *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, preexec_fn=take_interrupts, **options)


def test_a_closed_pipe_ends_quietly():
    """`llama3-run | head -1` stops generating, without a word."""
    with endless("--prompt", "line\n") as process:
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.wait(timeout=60) == 141
        assert process.stderr.read() == b""


def test_ctrl_c_of_a_real_process():
    with endless("--prompt", "line\n") as process:
        assert process.stdout.readline() == b"line\n"
        assert process.stdout.read(5) == b"word "
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(rb"(word )*\n", out)
    assert b"Traceback" not in err
    assert err.startswith(b"Prompt size: 5\nOutput size: ")
