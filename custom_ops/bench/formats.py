"""Measure every GGML type beside other engines and write the result into a page of the docs.

    python custom_ops/bench/formats.py --page=PAGE --folder=FOLDER --matmul=PROGRAM [--peers=...] [--types=...]

For each type, a model of two layers in the shapes of Llama 3.1 8B is written to FOLDER (400 MB at a time).
`llama3-bench --compare` then measures a prompt of 512 tokens (pp512) and 64 single tokens (tg64), and PROGRAM
(llama3_matmul_bench) measures products of 4,096 weight rows beside the machine's limits, all with one thread per CPU
available to this process. PAGE has one section per CPU, named as in /proc/cpuinfo or by --cpu. A section with the same
name is replaced; otherwise the section is added at the end.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType
from llama3_exporter.formats import table
from llama3_models.cli.command_line import run
from llama3_models.errors import Llama3Error

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.support.llama_gguf import write_llama_gguf

TYPES = tuple(ggml_type.name for ggml_type in (*table.FORMATS, *table.FLOAT_TYPES))
TESTS = {"pp512": 512, "tg64": 1}  # each with the rows of activations in its products
COLUMNS = (4096, 14_336)
OURS = "llama3-onnx"
THREADS = str(len(os.sched_getaffinity(0)))


def main(
    page: str, folder: str, matmul: str, peers: str = "llama.cpp", types: str | None = None, cpu: str | None = None
) -> None:
    """Measure every GGML type beside other engines and update a page of the docs.

    Args:
        page: The page to update.
        folder: Where to write the models, 400 MB at a time.
        matmul: The program llama3_matmul_bench.
        peers: Engines for llama3-bench --compare, separated by commas.
        types: GGML types, separated by commas; the section has only these. (default: all)
        cpu: Heading of this CPU's section. (default: the name in /proc/cpuinfo)
    """
    names = {peer: Path(peer).name for peer in peers.split(",") if peer}
    Path(folder).mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    versions: dict[str, str] = {}
    for type_name in types.split(",") if types else TYPES:
        speeds = _speeds(Path(folder), type_name, names, versions)
        cells = [type_name]
        for speed, rows in zip(speeds, TESTS.values(), strict=True):
            limits = ", ".join(_share_of_limit(matmul, type_name, columns, rows) for columns in COLUMNS)
            cells += [*speed, limits]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    _update(Path(page), _section(lines, names.values(), versions, cpu or _cpu()))


def _speeds(folder: Path, type_name: str, peers: dict[str, str], versions: dict[str, str]) -> list[tuple[str, str]]:
    """Return our tok/s and its ratios to the peers, for each test. A ratio is "-" if its run failed.

    `peers` gets the peers' names, and `versions` the versions of all engines.
    """
    path = write_llama_gguf(
        folder / f"{type_name.lower()}.gguf",
        hidden_size=4096,
        num_layers=2,
        num_heads=32,
        num_kv_heads=8,
        intermediate_size=14_336,
        types={"blk.*": GGMLQuantizationType[type_name], "*": GGMLQuantizationType.Q8_0},
        context_length=8192,
        share_bytes=True,
    )
    try:
        # One run per peer, because a peer that cannot load the type ends the run.
        reports = {peer: _bench(path, "--compare", peer) for peer in peers}
        ours = next(filter(None, reports.values()), None) or _bench(path)
    finally:
        path.unlink()
    if ours is None:
        raise Llama3Error(f"{type_name}: llama3-bench failed, even without a peer")
    for peer, report in reports.items():
        if report is not None:
            (peers[peer],) = report["engines"].keys() - {OURS}
    for report in (*reports.values(), ours):
        versions |= report["engines"] if report is not None else {}
    return [
        (f"{_medians(ours, test)[0]:.4g}", ", ".join(_ratio(report, test) for report in reports.values()))
        for test in TESTS
    ]


def _bench(path: Path, *options: str) -> dict[str, Any] | None:
    """Return the report of llama3-bench, or None if it fails; standard error has the reason."""
    command = ["llama3-bench", "--model-path", str(path), "--output-size", "64", "--repetitions", "3", "--json"]
    bench = subprocess.run([*command, "--threads", THREADS, *options], stdout=subprocess.PIPE, text=True)
    report: dict[str, Any] | None = json.loads(bench.stdout) if bench.returncode == 0 else None
    return report


def _medians(report: dict[str, Any], test: str) -> list[float]:
    """Return the median tok/s of each engine, ours first."""
    results = [result for result in report["results"] if result["test"] == test]
    return [result["median"] for result in sorted(results, key=lambda result: result["engine"] != OURS)]


def _ratio(report: dict[str, Any] | None, test: str) -> str:
    if report is None:
        return "-"
    ours, peer = _medians(report, test)
    return f"{ours / peer:.2f}"


def _share_of_limit(program: str, type_name: str, columns: int, rows: int) -> str:
    command = [program, type_name.lower(), "4096", str(columns), str(rows), THREADS]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    share = re.search(r": (\d+%) \(best", output)
    assert share is not None, output
    return share[1]


def _cpu() -> str:
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return cpu[1] if cpu else "Unknown CPU"


def _section(lines: list[str], peers: Iterable[str], versions: dict[str, str], cpu: str) -> str:
    today = datetime.now(timezone.utc).date()
    engines = "; ".join(f"{name}: {version.removesuffix(', cpu')}" for name, version in versions.items())
    beside = ", ".join(peers)
    return f"""## {cpu}

{today}, {THREADS} threads. {engines}.

| type | pp512 | {beside} | of the peak | tg64 | {beside} | of the read loop |
| --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(lines)}
"""


def _update(page: Path, section: str) -> None:
    """Replace the section with the same heading, or append the section."""
    heading, _, _ = section.partition("\n")
    before, found, after = page.read_text(encoding="utf-8").partition(f"{heading}\n")
    _, next_heading, rest = after.partition("\n## ")
    if not found:
        before = before.rstrip("\n") + "\n\n"
    page.write_text(before + section + next_heading + rest, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run(main, name="formats.py"))
