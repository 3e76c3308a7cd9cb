"""Running llama3-inspect as a command."""

import pytest
from llama3_exporter.commands.inspect import llama3_inspect
from llama3_models.cli import command_line


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run llama3-inspect and return its status, standard output and standard error."""
    status = command_line.run(llama3_inspect, list(map(str, arguments)), name="llama3-inspect")
    captured = capsys.readouterr()
    return status, captured.out, captured.err
