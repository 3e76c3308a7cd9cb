"""The benchmark measures what llama-bench and llama-perplexity measure, for our graphs and for llama.cpp."""

import json
import math
import os
import sys
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
from llama3_exporter import export
from llama3_models import reference
from llama3_models.cli.command_line import run
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile
from llama3_runtime.bench import speed as bench_module
from llama3_runtime.bench.perplexity import cut_windows, evaluate
from llama3_runtime.bench.speed import measure
from llama3_runtime.commands import bench as bench_command
from llama3_runtime.commands import run as commands
from llama3_runtime.commands.bench import GROUPS, bench
from llama3_runtime.model import Model

from tests.support.llama_gguf import write_llama_gguf

TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 3


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> Path:
    return write_llama_gguf(tmp_path_factory.mktemp("bench") / "model.gguf")


@pytest.fixture(scope="module", params=["last", "selected"])
def folder(request, gguf) -> Path:
    path = gguf.parent / request.param
    export(gguf, path, activations="float32", logits=request.param)
    return path


class FakeEngine:
    """An engine that needs two seconds per prompt and half a second per token by `clock`, and records its calls."""

    vocab_size = 100

    def __init__(self, name: str, clock: list[float], calls: list[tuple[str, str, int]]) -> None:
        self.name, self.clock, self.calls = name, clock, calls

    def prefill(self, ids):
        self.calls.append((self.name, "prefill", len(ids)))
        self.clock[0] += 2.0
        return np.zeros(100, np.float32)

    def forward(self, ids, *, keep=None):
        self.calls.append((self.name, "forward", len(ids)))
        self.clock[0] += 0.5
        return np.zeros((1, 100), np.float32)

    def rewind(self, position=0):
        self.calls.append((self.name, "rewind", position))


@pytest.fixture
def engines(monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr(bench_module.time, "perf_counter", lambda: clock[0])
    return {name: FakeEngine(name, clock, calls) for name in "ab"}, calls


def test_tokens_per_second_are_tokens_over_the_time_of_the_calls(engines):
    prompt, _, output, _ = measure(engines[0], prompt_size=10, output_size=4, depth=0, repetitions=3)
    assert (prompt.engine, prompt.test, prompt.tokens_per_second) == ("a", "pp10", [5.0, 5.0, 5.0])
    assert (output.engine, output.test, output.tokens_per_second) == ("a", "tg4", [2.0, 2.0, 2.0])
    assert (output.mean, output.median, output.deviation) == (2.0, 2.0, 0.0)


def test_engines_take_turns_and_one_repetition_does_not_count(engines):
    measure(engines[0], prompt_size=10, output_size=0, depth=0, repetitions=2)
    prompts = [name for name, call, _ in engines[1] if call == "prefill"]
    assert prompts == ["a", "b"] * 3


def test_the_depth_is_filled_once_and_returned_to(engines):
    measure({"a": engines[0]["a"]}, prompt_size=10, output_size=2, depth=40, repetitions=1)
    again = [("a", "rewind", 40), ("a", "prefill", 10)]
    tokens = [("a", "rewind", 40), ("a", "forward", 1), ("a", "forward", 1)]
    assert engines[1] == [("a", "rewind", 0), ("a", "prefill", 40), *again, *again, *tokens, *tokens]


def test_windows_do_not_overlap_and_begin_with_bos():
    assert cut_windows(range(11), window=4, bos=None) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert cut_windows(range(11), window=4, bos=99) == [[99, 1, 2, 3], [99, 5, 6, 7]]
    assert cut_windows(range(11), window=4, bos=None, limit=1) == [[0, 1, 2, 3]]
    with pytest.raises(Llama3Error, match=r"the text has 3 tokens, .* 4"):
        cut_windows(range(3), window=4, bos=None)


def expected_perplexity(gguf: Path, windows: list[list[int]]) -> float:
    """Compute the definition: predict the second half of each window, each token from all those before it."""
    losses = []
    with GGUFFile.open(gguf) as file:
        for ids in windows:
            logits = reference.forward(file, ids).astype(np.float64)
            for position in range(len(ids) // 2, len(ids) - 1):
                row = np.exp(logits[position])
                losses.append(-math.log(row[ids[position + 1]] / row.sum()))
    return math.exp(sum(losses) / len(losses))


@pytest.mark.parametrize("window", [32, 33])
def test_perplexity_and_divergence_of_an_export(gguf, folder, window):
    """They are those of the reference, whether the graph returns all the rows needed or only the last."""
    ids = np.random.default_rng(1).integers(0, 256, 3 * window).tolist()
    windows = cut_windows(ids, window=window, bos=None)
    model = Model.from_folder(folder, threads=1, max_length=window, chunk_size=8)
    with GGUFFile.open(gguf) as file:
        *_, (oracle, ours) = evaluate({"ours": model}, windows, gguf=file)
    assert oracle.perplexity == pytest.approx(expected_perplexity(gguf, windows), rel=1e-5)
    assert ours.perplexity == pytest.approx(oracle.perplexity, rel=1e-4)
    assert ours.mean_kl == pytest.approx(0, abs=1e-8)
    assert ours.top1_agreement == 1.0
    assert oracle.mean_kl is None


def test_llama_cpp_as_an_engine_computes_the_same_model(gguf):
    """Chunks, rewinding and rows of logits work; the tolerance is for llama.cpp's float16 cache."""
    pytest.importorskip("llama_cpp")
    from llama3_runtime.bench.llama_cpp_peer import LlamaCpp

    ids = np.random.default_rng(2).integers(0, 256, 40).tolist()
    with GGUFFile.open(gguf) as file:
        expected = reference.forward(file, ids)
    with LlamaCpp(gguf, threads=1, max_length=64, chunk_size=16) as engine:
        assert engine.vocab_size == 320
        np.testing.assert_allclose(engine.prefill(ids[:30]), expected[29], atol=0.05)
        engine.rewind(20)
        np.testing.assert_allclose(engine.forward(ids[20:32], keep=5), expected[27:32], atol=0.05)
        engine.rewind()
        np.testing.assert_allclose(engine.prefill(ids), expected[-1], atol=0.05)


def call(*arguments: str) -> int:
    return run(bench, list(arguments), name="llama3-bench", groups=GROUPS)


def test_speed_as_json(capsys, folder):
    sizes = ("--prompt-size", "16", "--output-size", "4", "--depth", "8", "--repetitions", "3")
    assert call("--model-path", str(folder), *sizes, "--threads", "1", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["threads"], report["repetitions"], report["ratios"]) == (1, 3, {})
    assert [(result["test"], result["depth"]) for result in report["results"]] == [("pp16", 8), ("tg4", 8)]
    for result in report["results"]:
        assert len(result["tokens_per_second"]) == 3
        assert result["median"] == sorted(result["tokens_per_second"])[1] > 0


def test_a_profile_has_every_node_of_the_graph(capsys, folder):
    """Each node counts as often as it is in the graph, and earlier runs do not count."""
    arguments = ("--model-path", str(folder), "--profile", "--output-size", "3", "--depth", "5", "--threads", "1")
    assert call(*arguments, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    nodes = report["token"]["nodes"]
    attentions = [node for node in nodes if node["op"] == "GroupQueryAttention"]
    assert [(node["node"].split("/")[0], node["calls"]) for node in attentions] == [("layers.*", 2)]
    assert report["token"]["all_nodes"] == pytest.approx(sum(node["microseconds"] for node in nodes))
    assert report["token"]["without_profiler"] > 0
    assert [node["microseconds"] for node in nodes] == sorted((node["microseconds"] for node in nodes), reverse=True)

    assert call(*arguments) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert lines[0].split() == ["|", "node", "|", "calls", "|", "µs", "|", "share", "|"]
    assert [line.split("|")[1].strip() for line in lines[-3:]] == [
        "others",
        "all nodes",
        "one token without the profiler",
    ]


def test_speed_beside_llama_cpp(capsys, gguf, folder):
    pytest.importorskip("llama_cpp")
    sizes = ("--prompt-size", "8", "--output-size", "2", "--repetitions", "1", "--threads", "1")
    assert call("--model-path", str(folder), "--gguf", str(gguf), "--compare", "llama.cpp", *sizes) == 0
    output = capsys.readouterr().out
    assert [line.split("|")[1:3] for line in output.splitlines() if line.startswith("|")][2:] == [
        [" pp8  ", " llama3-onnx "],
        [" pp8  ", " llama.cpp   "],
        [" tg2  ", " llama3-onnx "],
        [" tg2  ", " llama.cpp   "],
    ]
    assert output.count("times as fast as llama.cpp") == 2


def test_perplexity_of_a_text(capsys, tmp_path, gguf, folder):
    text = tmp_path / "text.txt"
    text.write_text(TEXT, "utf-8")
    options = ("--perplexity", str(text), "--window", "40", "--max-windows", "2", "--kl", "--gguf", str(gguf))
    assert call("--model-path", str(folder), *options, "--threads", "1", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["window"], report["windows"]) == (40, 2)
    oracle, ours = report["results"]
    assert (oracle["engine"], ours["engine"]) == ("float32 reference", "llama3-onnx")
    assert ours["perplexity"] == pytest.approx(oracle["perplexity"], rel=1e-4)
    assert ours["mean_kl"] < 1e-8


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "missing --model"),
        (["--model-path", "x", "--repetitions", "0"], 2, "--repetitions must be 1 or more, not 0"),
        (["--model-path", "x", "--prompt-size", "0", "--output-size", "0"], 2, "nothing to measure"),
        (["--model-path", "x", "--profile", "--output-size", "0"], 2, "no token to profile"),
        (["--model-path", "x", "--profile", "--compare", "llama.cpp"], 2, "--profile cannot be used with --compare"),
        (["--model-path", "x", "--kl"], 2, "--kl needs --perplexity"),
        (["--model-path", "x", "--max-windows", "2"], 2, "--max-windows needs --perplexity"),
        (["--model-path", "x", "--pre-tokenizer", "gpt-2"], 2, "--pre-tokenizer needs --perplexity"),
        (["--model-path", "x", "--tokenizer-path", "y"], 2, "--tokenizer-path needs --perplexity"),
        (["--model-path", "x", "--compare", "ollama"], 2, "llama.cpp"),
        (["--model-path", "x", "--compare", "llama.cpp,llama.cpp"], 2, "names an engine twice"),
        (["--model-path", "x", "--compare", "llama.cpp", "--provider", "cuda"], 2, "on the CPU"),
        (["--model-path", "x", "--compare", "llama.cpp"], 1, "x: no such file"),
        (["--model-path", "x", "--model", "smollm2-135m"], 2, "cannot be used together"),
        (["--model", "/dev/null"], 1, "/dev/null: not a regular file"),
        (["--model-path", "/", "--compare", "llama.cpp"], 1, "use --gguf"),
        (["--model-path", "/", "--compare", "llama.cpp", "--gguf", "x"], 1, "x: no such file"),
        (["--model-path", "/", "--compare", "llama.cpp", "--gguf", "PIPE"], 1, "pipe: not a regular file"),
        (["--model-path", "PIPE"], 1, "pipe: not a regular file"),
        (["--model-path", "none.gguf"], 1, "none.gguf: no such file"),
        (["--model-path", "/", "--perplexity", "none.txt"], 1, "none.txt: No such file"),
        (["--model-path", "/", "--perplexity", "/dev/zero"], 1, "/dev/zero: Not a regular file"),
        (["--model-path", "/", "--perplexity", "PIPE"], 1, "pipe: Not a regular file"),
        (["--model-path", "/", "--perplexity", "LONG"], 1, "long: has more than 10 bytes"),
    ],
)
def test_what_cannot_be_measured_is_one_line(capsys, monkeypatch, tmp_path, arguments, status, message):
    """The line comes at once: a pipe without a writer and an endless device are not read."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_text("eleven byte")
    monkeypatch.setattr(bench_command, "_MAX_TEXT_BYTES", 10)
    paths = {"PIPE": str(tmp_path / "pipe"), "LONG": str(tmp_path / "long")}
    assert call(*(paths.get(argument, argument) for argument in arguments)) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_perplexity_of_a_gguf_takes_a_call_for_each_window(capsys, monkeypatch, tmp_path, gguf):
    """The export that is created for it returns the logits of all the positions needed."""
    calls = []
    forward = Model.forward
    monkeypatch.setattr(Model, "forward", lambda self, ids, **options: calls.append(1) or forward(self, ids, **options))
    monkeypatch.setenv("LLAMA3_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    options = ("--perplexity", str(tmp_path / "text.txt"), "--window", "40", "--max-windows", "3", "--ops", "contrib")
    assert call("--model-path", str(gguf), *options, "--threads", "1", "--json") == 0
    assert len(calls) == 1 + 3  # the first call finds out how many rows the export returns
    assert json.loads(capsys.readouterr().out)["windows"] == 3


def test_a_perplexity_of_a_model_without_a_tokenizer(capsys, monkeypatch, tmp_path, gguf):
    """The advice helps: with another file's tokenizer, the perplexity is that of the same weights in that file."""
    monkeypatch.setenv("LLAMA3_CACHE", str(tmp_path / "cache"))
    bare = write_llama_gguf(tmp_path / "bare.gguf", tokenizer=None)
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    options = ("--perplexity", str(tmp_path / "text.txt"), "--window", "40", "--max-windows", "2", "--json")
    assert call("--model", str(bare), *options) == 1
    assert f"{bare}: has no tokenizer; " in capsys.readouterr().err
    assert call("--model", str(bare), *options, "--tokenizer-path", str(gguf)) == 0
    found = json.loads(capsys.readouterr().out)["results"]
    assert call("--model", str(gguf), *options) == 0
    assert found == json.loads(capsys.readouterr().out)["results"]


def test_logits_that_are_no_numbers_are_one_line():
    """They must not become a perplexity of NaN."""

    class Broken(FakeEngine):
        def forward(self, ids, *, keep=None):
            return np.full((keep or 1, 100), np.nan, np.float32)

    with pytest.raises(Llama3Error, match="the logits of ours are NaN"):
        list(evaluate({"ours": Broken("ours", [0.0], [])}, [[1, 2, 3, 4]]))


def test_both_commands_show_the_options_they_share_in_the_same_order():
    """Every option is also under a heading."""
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(signature(bench).parameters)
    ours, other = ([name for names in groups.values() for name in names] for groups in (GROUPS, commands.GROUPS))
    assert [name for name in ours if name in other] == [name for name in other if name in ours]


def test_a_missing_llama_cpp_is_one_line(capsys, monkeypatch, gguf, folder):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    assert call("--model-path", str(folder), "--gguf", str(gguf), "--compare", "llama.cpp") == 1
    error = capsys.readouterr().err
    assert "pip install llama-cpp-python" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        (["--depth", "400"], "--prompt-size 512 and --depth 400;"),
        (["--depth", "400", "--output-size", "600"], "--output-size 600 and --depth 400;"),
        (["--prompt-size", "513"], "--prompt-size 513;"),
        (["--profile", "--output-size", "513"], "--output-size 513;"),
        (["--perplexity", "TEXT", "--window", "600"], "--window 600;"),
    ],
)
def test_more_positions_than_the_context_has(capsys, tmp_path, folder, words, sizes):
    """The message names the options of this command, which does not have --max-length."""
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    words = [word.replace("TEXT", str(tmp_path / "text.txt")) for word in words]
    assert call("--model-path", str(folder), *words) == 1
    output, error = capsys.readouterr()
    assert (output, error.count("\n")) == ("", 1)
    assert error.startswith(f"llama3-bench: error: {folder}: its context of 512 positions")
    assert f" {sizes}" in error


def test_tables_fit_80_columns():
    """Names are shortened, numbers never. Control codes in a name are escaped, and their escapes count."""
    rows = [["test", "engine", "median tok/s"], ["pp131072 @ d131072", "\x1b[31m" + "engine" * 20, "12345.67"]]
    first, rule, second = bench_command._table(rows, names=1)
    assert len(first) == len(rule) == len(second) == 79
    assert second.startswith(r"| pp131072 @ d131072 | \x1b[31mengine")
    assert second.endswith("... | 12345.67     |")
    assert len(bench_command._table([["a", "b"], ["c", "d"]])[0]) == len("| a | b |")
