"""The page of --list-models."""

from __future__ import annotations

import subprocess
import sys

import pytest
from llama3_models.hub import catalogue
from llama3_models.hub.listing import list_models

COMMANDS = {
    "llama3-run": "llama3_runtime.commands.run",
    "llama3-bench": "llama3_runtime.commands.bench",
    "llama3-export": "llama3_exporter.commands.export",
    "llama3-inspect": "llama3_exporter.commands.inspect",
}


def test_every_model_is_listed_with_its_sizes() -> None:
    page = list_models()
    for model in catalogue.all_models():
        assert f"\n{model.name}\n" in page
        assert model.license_url in page
        for encoding, file in model.hub_files.items():
            assert f"{encoding} {file.gigabytes:g}" in page
    assert max(map(len, page.splitlines())) <= 80


def test_what_is_on_this_machine_is_marked() -> None:
    """The embedded model's package is installed with the tests."""
    assert "q4_1*" in list_models()


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_prints_it(name: str) -> None:
    """--list-models works without the arguments that the command otherwise needs."""
    code = f"import sys; from {COMMANDS[name]} import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, "--list-models"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == list_models() + "\n"
    helped = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True)
    assert "--list-models" in helped.stdout
