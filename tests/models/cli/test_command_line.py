"""The command line layer: nothing runs unless every word on the command line is understood."""

import errno
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from llama3_models.cli.command_line import run
from llama3_models.errors import Llama3Error, UsageError

calls: list[dict[str, object]] = []


def sample(
    model: str,
    folder: Path = Path("out"),
    *,
    prompt: str = "I believe",
    max_length: int = 512,
    temperature: float = 0.5,
    provider: Literal["cpu", "cuda", "auto"] = "cpu",
    version: Literal["3.0", "3.1"] | None = None,
    stream: bool = True,
    json: bool = False,
    stop: tuple[str, ...] = (),
    seed: int | None = None,
) -> int | None:
    """Show how a command line is read.

    This is a sample with every kind of parameter, and this paragraph is long enough that it has to be wrapped.

    Args:
        model: A model's file
            or name.
        folder: Where to write.
        prompt: What to say: anything.
        max_length: Positions of the cache.
        temperature: Divide the logits.
        provider: Where to run.
        version: Which model (default: 3.1).
        stream: Print as it comes.
        json: Print data.
        stop: Stop at this text.
        seed: Random seed (default: a new one).

    Examples:
        sample model.gguf --prompt hello
    """
    arguments = dict(locals())
    calls.append(arguments)
    if prompt == "status":
        return 7
    if prompt == "error":
        raise Llama3Error("what is wrong,\n  and\x1b[31m where")
    if prompt == "usage":
        raise UsageError("--a and --b cannot be used together")
    if prompt == "interrupt":
        raise KeyboardInterrupt
    if prompt == "bug":
        raise ValueError("a bug")
    if prompt == "open":
        raise PermissionError(errno.EACCES, "Permission denied", "/some/file")
    if prompt == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    if prompt == "odd":
        raise OSError(errno.ECHILD, "No child processes")
    return None


@pytest.fixture(autouse=True)
def no_calls():
    calls.clear()


LETTERS = {"p": "prompt", "n": "max_length", "t": "temperature", "s": "stop", "j": "json"}


def call(*words: str) -> dict[str, object]:
    assert run(sample, words, name="sample", letters=LETTERS) == 0
    return calls.pop()


def refuse(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(sample, words, name="sample", letters=LETTERS, meant=lambda _: "prompt") == 2
    assert calls == [], "the command ran before its arguments were checked"
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("sample: error: ")
    assert output.err.endswith("(see sample --help)\n")
    assert output.err.count("\n") == 1
    return output.err


def test_defaults_are_the_signature():
    assert call("m") == {
        "model": "m",
        "folder": Path("out"),
        "prompt": "I believe",
        "max_length": 512,
        "temperature": 0.5,
        "provider": "cpu",
        "version": None,
        "stream": True,
        "json": False,
        "stop": (),
        "seed": None,
    }


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--max-length", "7"], "max_length", 7),
        (["--max_length", "7"], "max_length", 7),
        (["--max-length=7"], "max_length", 7),
        (["--max_length=-1"], "max_length", -1),
        (["--max-length", "-1"], "max_length", -1),
        (["--temperature", "-0.25"], "temperature", -0.25),
        (["--temperature", "1e-3"], "temperature", 0.001),
        (["--temperature", "1"], "temperature", 1.0),
        (["--seed", "3"], "seed", 3),
        (["--version", "3.1"], "version", "3.1"),
        (["--version", "3.0"], "version", "3.0"),
        (["--provider=auto"], "provider", "auto"),
        (["--json"], "json", True),
        (["--json", "--stream"], "json", True),
        (["--json=true"], "json", True),
        (["--json", "True"], "json", True),
        (["--no-json"], "json", False),
        (["--no_json"], "json", False),
        (["--json=false"], "json", False),
        (["--json", "false"], "json", False),
        (["--no-stream"], "stream", False),
        (["--stream=False"], "stream", False),
        (["--stop", "a"], "stop", ("a",)),
        (["--stop", "a", "--stop=b c", "--stop", "\n", "--stop", '["d"]'], "stop", ("a", "b c", "\n", '["d"]')),
        (["-n", "7"], "max_length", 7),
        (["-n7"], "max_length", 7),
        (["-n=7"], "max_length", 7),
        (["-n", "-1"], "max_length", -1),
        (["-n-1"], "max_length", -1),
        (["-t.5"], "temperature", 0.5),
        (["-p", "Hello you"], "prompt", "Hello you"),
        (["-p=Hello"], "prompt", "Hello"),
        (["-s", "a", "--stop", "b", "-s=c"], "stop", ("a", "b", "c")),
        (["-j"], "json", True),
        (["-j", "false"], "json", False),
        (["some/folder"], "folder", Path("some/folder")),
        (["--folder", "some/folder"], "folder", Path("some/folder")),
    ],
)
def test_every_way_to_write_an_option(words, name, value):
    """Both spellings, both ways to write a value, negative numbers, switches and repeats arrive with their type."""
    given = call("m", *words)[name]
    assert given == value
    assert type(given) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        *("123", "[a]", "[1, 2]", "{'a': 1}", "True", "None", "1.0", "0x10", "'quoted'", '""', "#x", "a,b"),
        *("", " ", "-", "-x", "- item", "-1", "=", "a=b", "a\nb", "\\n", "\u00e9"),
        *("--2 3", "--", "---", "-h", "-n", "-n5", "--x", "--no-x", "-- a list", "--jsonl", "--JSON?"),
    ],
)
def test_text_is_never_a_literal(text):
    """Fire would turn these into numbers, lists and booleans, and the dash into a separator."""
    assert call("m", "--prompt", text)["prompt"] == text
    assert call("m", f"--prompt={text}")["prompt"] == text
    assert call("m", "-p", text)["prompt"] == text


@pytest.mark.parametrize("text", ["--help", "--version", "--json", "--no-json", "--prompt=x", "--max_length"])
def test_an_option_of_the_command_as_a_text_is_given_with_an_equals_sign(capsys, text):
    """After a space, the error says that the value was forgotten."""
    assert call("m", f"--prompt={text}")["prompt"] == text
    if text not in ("--help", "--version"):
        assert f"--prompt needs a value (write --prompt={text} if that is the value)" in refuse(
            capsys, "m", "--prompt", text, "5"
        )


def test_positional_arguments():
    """Positional arguments may be anywhere, be given by name, or follow a double dash."""
    assert call("--json", "m", "--seed", "1", "o")["folder"] == Path("o")
    assert call("--model", "m")["model"] == "m"
    given = call("--model", "m", "o")
    assert (given["model"], given["folder"]) == ("m", Path("o"))
    assert call("--json", "--", "--model")["model"] == "--model"
    assert call("-")["model"] == "-"
    assert call("-5")["model"] == "-5"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["m", "--temprature", "1"], "unknown option '--temprature'; did you mean --temperature?"),
        (["m", "--temp", "1"], "did you mean --temperature?"),
        (["m", "--max-lenght=5"], "unknown option '--max-lenght'; did you mean --max-length?"),
        (["m", "--MAX-LENGTH", "5"], "did you mean --max-length?"),
        (["m", "-seed", "5"], "did you mean --seed?"),
        (["m", "--nostream"], "did you mean --no-stream?"),
        (["m", "--no-prompt"], "unknown option '--no-prompt'"),
        (["m", "--xyzzy"], "unknown option '--xyzzy' (see"),
        (["m", "-x", "x"], "unknown option '-x' (see"),
        (["m", "-prompt", "x"], "unknown option '-prompt'; did you mean --prompt?"),
        (["m", "-pHello"], "unknown option '-pHello'; put a space between -p and its value"),
        (["m", "-nx"], "unknown option '-nx'; put a space between -n and its value"),
        (["m", "-n"], "-n needs a value"),
        (["m", "-n", "-p"], "-n needs a value"),
        (["m", "-n", "x"], "--max-length: expected a whole number, not 'x'"),
        (["m", "-n", "1", "--max-length", "1"], "--max-length is given twice"),
        (["m", "--interactive"], "unknown option '--interactive' (see"),
        (["m", "--file", "x"], "unknown option '--file' (see"),
        (["m", "--no-seed"], "unknown option '--no-seed' (see"),
        (["m", "--helo"], "did you mean --help?"),
        (["m", "-"], None),
        (["m", "o", "x"], "unexpected argument 'x'; put --prompt before it"),
        (["m", "o", "x", "--prompt", "y"], "unexpected argument 'x'; put quotes around a text with spaces (see"),
        (["m", "o", "--prompt", "a", "x", "y"], "unexpected argument 'x'; put quotes around a text with spaces (see"),
        (["m", "o", "--", "x"], "unexpected argument 'x'"),
        ([], "missing MODEL"),
        (["--json"], "missing MODEL"),
        (["m", "--seed", "1", "--seed", "1"], "--seed is given twice"),
        (["m", "--max-length", "1", "--max_length=2"], "--max-length is given twice"),
        (["m", "--json", "--no-json"], "--json is given twice"),
        (["m", "--model", "m"], "MODEL is given twice"),
        (["m", "--seed"], "--seed needs a value"),
        (["m", "--seed", "--json"], "--seed needs a value (see"),
        (["m", "--provider", "-x"], "--provider needs a value (see"),
        (["m", "--prompt", "--temperature", "0"], "(write --prompt=--temperature if that is the value)"),
        (["m", "--prompt", "--temperature=0"], "(write --prompt=--temperature=0 if that is the value)"),
        (["m", "--no-json=true"], "--no-json does not accept a value"),
        (["m", "--json=maybe"], "--json: expected true or false, not 'maybe'"),
        (["m", "--max-length", "abc"], "--max-length: expected a whole number, not 'abc'"),
        (["m", "--max-length", "1.5"], "--max-length: expected a whole number, not '1.5'"),
        (["m", "--max-length", "1_0"], "expected a whole number"),
        (["m", "--max-length", ""], "expected a whole number, not ''"),
        (["m", "--max-length", "9" * 5000], "expected a whole number"),
        (["m", "--temperature", "warm"], "--temperature: expected a number, not 'warm'"),
        (["m", "--temperature", "nan"], "--temperature: expected a number, not 'nan'"),
        (["m", "--temperature=-inf"], "expected a number"),
        (["m", "--temperature", "1e400"], "expected a number"),
        (["m", "--temperature", "1_0"], "expected a number, not '1_0'"),
        (["m", "--temperature", " 1"], "expected a number, not ' 1'"),
        (["m", "--temperature", "\u0661"], "--temperature: expected a number"),
        (["m", "--provider", "gpu"], "--provider: expected one of cpu, cuda, auto, not 'gpu'"),
        (["m", "--version", "3"], "--version: expected one of 3.0, 3.1, not '3'"),
        (["m", "--folder="], "FOLDER: expected a path, not ''"),
        (["m", "--prompt", "\udcff"], "--prompt: expected text in UTF-8"),
    ],
)
def test_usage_errors(capsys, words, expected):
    """Each mistake is one line and exit status 2, and the command is never called."""
    if expected is None:
        assert call(*words)["folder"] == Path("-")
        return
    assert expected in refuse(capsys, *words)


def test_fire_flags_are_not_ours(capsys):
    """Fire's own flags after a double dash (a Python prompt, a trace) are positional arguments here."""
    assert "unexpected argument '--interactive'" in refuse(capsys, "m", "o", "--", "--interactive")
    assert "unexpected argument '--trace'" in refuse(capsys, "m", "o", "--", "--trace")


@pytest.mark.parametrize(
    ("prompt", "status", "line"),
    [
        ("status", 7, ""),
        ("error", 1, "sample: error: what is wrong, and\\x1b[31m where\n"),
        ("usage", 2, "sample: error: --a and --b cannot be used together (see sample --help)\n"),
        ("interrupt", 130, ""),
        ("open", 1, "sample: error: /some/file: Permission denied\n"),
        ("full", 1, "sample: error: cannot write: No space left on device\n"),
    ],
)
def test_exit_statuses(capsys, prompt, status, line):
    """An error that a user can cause is one line, even if the message has several and contains an escape sequence."""
    assert run(sample, ["m", "--prompt", prompt], name="sample") == status
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(("prompt", "error"), [("bug", ValueError), ("odd", OSError)])
def test_bugs_keep_their_traceback(prompt, error):
    with pytest.raises(error):
        run(sample, ["m", "--prompt", prompt], name="sample")


@pytest.mark.parametrize(
    "words",
    [
        *(["--help"], ["-h"], ["m", "--seed", "x", "--help"], ["--nonsense", "-h"], ["--prompt", "--help"]),
        *(["--seed", "-h"], ["--version", "--help"], ["-p", "-h", "-h"]),
    ],
)
def test_help_page(capsys, words):
    """--help wins over every mistake; the page fits 80 columns and shows each option's type, default and purpose."""
    assert run(sample, words, name="sample", groups={"Input": ["prompt", "stop"]}, letters=LETTERS) == 0
    page, errors = capsys.readouterr()
    assert errors == ""
    assert calls == []
    assert max(map(len, page.splitlines())) < 80
    text = " ".join(page.split())
    assert text.startswith("sample (llama3-onnx ")
    for part in [
        "usage: sample MODEL [FOLDER] [options]",
        "Arguments: MODEL A model's file or name. (required)",
        "FOLDER Where to write. (default: out)",
        "Input: -p, --prompt TEXT What to say: anything. (default: I believe)",
        "-s, --stop TEXT Stop at this text. (may be repeated, default: none)",
        "Options: -n, --max-length N Positions of the cache. (default: 512)",
        "-t, --temperature X Divide the logits. (default: 0.5)",
        "--provider cpu|cuda|auto Where to run. (default: cpu)",
        "--version 3.0|3.1 Which model (default: 3.1).",
        "--[no-]stream Print as it comes. (default: on)",
        "-j, --[no-]json Print data. (default: off)",
        "-h, --help Show ",
        "--version Without a value, show ",
        "Examples: sample model.gguf --prompt hello",
    ]:
        assert part in text


@pytest.mark.parametrize(
    "words", [["--version"], ["m", "--version"], ["--version", "--json"], ["--version", "-p", "x"]]
)
def test_version_without_a_value(capsys, words):
    """--version without a value prints the versions, even if the command has an option of this name."""
    assert run(sample, words, name="sample") == 0
    page = capsys.readouterr().out
    assert calls == []
    assert max(map(len, page.splitlines())) < 80
    first, rest = page.split("\n", 1)
    assert first == f"llama3-onnx {importlib.metadata.version('llama3-onnx')}"
    assert f"with Python {sys.version.split()[0]}, " in rest
    assert f"numpy {np.__version__}" in rest


def test_version_of_a_command_without_such_an_option(capsys):
    def command(*, prompt: str = "") -> None:
        calls.append({"prompt": prompt})

    for words in (["--version"], ["--version", "3.1"], ["--nonsense", "--version"], ["-x", "--prompt", "--version"]):
        assert run(command, words, name="command") == 0
        assert capsys.readouterr().out.startswith("llama3-onnx ")
    assert run(command, ["--prompt=--version"], name="command") == 0
    assert calls == [{"prompt": "--version"}]


def test_a_letter_of_no_parameter_is_the_programmers_mistake():
    with pytest.raises(TypeError, match="promt"):
        run(sample, ["m"], name="sample", letters={"p": "promt"})


def test_help_in_a_value_is_a_value():
    assert call("m", "--prompt=--help")["prompt"] == "--help"
    assert call("--", "--help")["model"] == "--help"


PROGRAM = """
import sys
from llama3_models.cli.command_line import run

def command(*, lines: int = 1, end: str = "") -> None:
    "Print lines."
    for number in range(lines):
        print(number)
    print(end, end="")

sys.exit(run(command, name="program"))
"""


def program(*words: str, stdout: int = subprocess.PIPE, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], stdout=stdout, stderr=subprocess.PIPE, text=True, **settings
    )


def test_closed_pipe_ends_quietly():
    """In `| head -1` there is no traceback and no message at exit; the status is that of a process ended by SIGPIPE."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = program("--lines", "100000", stdout=writer)
    finally:
        os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_under_standard_output():
    """If the last flush fails, that is also one line."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        result = program(stdout=full)
    finally:
        os.close(full)
    assert result.returncode == 1
    assert result.stderr == "program: error: cannot write: No space left on device\n"


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_a_closed_stream_takes_nothing_and_the_other_nothing_more(closed):
    """With `2>&-`, print would write errors to the other stream, and the next opened file would get descriptor 2."""

    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    result = program("--bogus", preexec_fn=close)
    line = "" if 2 in closed else "program: error: unknown option '--bogus' (see program --help)\n"
    assert (result.returncode, result.stdout, result.stderr) == (2, "", line)
    result = program("--lines", "2", "--end", "2", preexec_fn=close)
    assert (result.returncode, result.stdout, result.stderr) == (0, "" if 1 in closed else "0\n1\n2", "")


def test_what_the_terminal_cannot_show_is_escaped():
    """A path or a ± on a terminal without UTF-8 must not stop the program."""
    result = program("--end", "±☃", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (result.returncode, result.stdout, result.stderr) == (0, "0\n\\xb1\\u2603", "")


def test_help_reaches_a_pipe_without_a_pager():
    result = program("--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "--lines N" in result.stdout


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_utf8_in_a_locale_of_ascii(tmp_path, locale):
    """Arguments, file names and output are UTF-8, even if PYTHONUTF8=0 tells Python to follow the locale."""
    (tmp_path / "modèle ☃.txt").write_text("ﬁn €", encoding="utf-8")
    script = """
import sys
from pathlib import Path
from llama3_models.cli.command_line import run

def command(file: Path, *, prompt: str) -> None:
    "Print the prompt and a file."
    print(ascii(prompt), file.name, file.read_text())

sys.exit(run(command, name="program"))
"""
    (tmp_path / "program.py").write_text(script, encoding="utf-8")
    environment = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0"}
    environment.pop("PYTHONIOENCODING", None)
    command = [sys.executable, "program.py", "modèle ☃.txt", "--prompt", "日本"]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == r"'\u65e5\u672c' modèle ☃.txt ﬁn €" + "\n"
    result = subprocess.run([*command, b"\xff"], capture_output=True, encoding="utf-8", env=environment, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert "unexpected argument '\\udcff'" in result.stderr


def test_unexpressible_parameter_is_the_programmers_mistake():
    def command(*, mapping: dict[str, str]) -> None: ...

    with pytest.raises(TypeError, match="mapping"):
        run(command, [], name="command")
