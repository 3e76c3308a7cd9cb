"""`llama3-run` as a user runs it, on the embedded model, compared with llama.cpp."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from llama3_models.gguf.file import GGUFFile
from llama3_models.reference import forward

from tests.support import llama_cpp_oracle
from tests.support.metric_lines import METRIC_LABELS
from tests.support.vocabularies import smollm2_gguf

PROMPT = "The capital of France is"
COUNT = 24


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def run(cache: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "llama3-run", "--model-path", smollm2_gguf(), "--temperature", "0", *words]
    environment = {**os.environ, "LLAMA3_CACHE": str(cache)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("ops", ["native", "contrib"])
def test_text_and_figures(cache: Path, ops: str) -> None:
    """Standard output has the prompt and llama.cpp's text, or only JSON; standard error has the figures."""
    options = ("--ops", ops, "--prompt", PROMPT, "--max-new-tokens", str(COUNT), "--ignore-eos")
    result = run(cache, *options, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["prompt"], report["finish_reason"], len(report["ids"])) == (PROMPT, "length", COUNT)
    assert report["metrics"]["output_size"] == COUNT

    shown = run(cache, *options, "--warmup-pipeline")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == f"{PROMPT}{report['text']}\n"
    labels = [line.split(":")[0] for line in shown.stderr.splitlines() if not line.startswith("Exporting")]
    assert labels == [*METRIC_LABELS, "Stopped"]
    assert re.search(rf"^Prompt size: {report['metrics']['prompt_size']}$", shown.stderr, re.MULTILINE)

    prompt_ids = llama_cpp_oracle.tokenize(smollm2_gguf(), [PROMPT])[0]
    theirs = llama_cpp_oracle.greedy(smollm2_gguf(), prompt_ids, COUNT)
    forks = (i for i, (a, b) in enumerate(zip(report["ids"], theirs, strict=True)) if a != b)
    if (fork := next(forks, None)) is not None:  # then the two tokens must be equally likely, up to rounding
        text = [*prompt_ids, *theirs[:fork]]
        with GGUFFile.open(smollm2_gguf()) as file:
            (logits,) = forward(file, text, last_only=True)
        rounding = np.std(llama_cpp_oracle.logits(smollm2_gguf(), text)[-1] - logits)
        assert abs(logits[report["ids"][fork]] - logits[theirs[fork]]) < 3 * rounding


def test_what_cannot_run_is_one_line(cache: Path) -> None:
    """The exit status is 1 for wrong input and 2 for a wrong command line; standard output is empty."""
    for words, status, message in (
        (("--prompt", "word " * 600), 1, "more than --max-length 512"),
        (("--prompt", "a", "--max-length", "100000"), 1, "--max-length must be in"),
        (("--prompt", "a", "--min-p", "2"), 2, "--min-p must be between 0 and 1, not 2.0"),
        (("--prompt", "a", "--max-lenght", "5"), 2, "--max-length"),
    ):
        result = run(cache, *words)
        assert (result.returncode, result.stdout) == (status, ""), result
        assert message in result.stderr
        assert "Traceback" not in result.stderr
