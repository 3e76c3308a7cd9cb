"""Measure every GGML type beside other engines and write the result into a page of the docs.

    python custom_ops/bench/formats.py --page=PAGE --folder=FOLDER --matmul=PROGRAM [--peers=...] [--types=...]

For each type, a model of two layers in the shapes of Llama 3.1 8B is written to FOLDER (400 MB at a time).
`llama3-bench --compare` then measures a prompt of 512 tokens (pp512) and 64 single tokens (tg64), and PROGRAM
(llama3_matmul_bench) measures products of 4,096 rows beside the machine's limits. PAGE has one section per CPU, named
as /proc/cpuinfo names it unless --cpu says more. This CPU's section is replaced, or added at the end.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType
from llama3_exporter.formats import table
from llama3_models.cli.command_line import run

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.support.llama_gguf import write_llama_gguf

TYPES = tuple(ggml_type.name for ggml_type in (*table.FORMATS, *table.FLOAT_TYPES))
TESTS = {"pp512": 512, "tg64": 1}  # each with the rows of its products
COLUMNS = (4096, 14_336)


def main(page: str, folder: str, matmul: str, peers: str = "llama.cpp", types: str = "", cpu: str = "") -> None:
    """Measure every GGML type beside other engines and update a page of the docs.

    Args:
        page: The page to update.
        folder: Where to write the models, 400 MB at a time.
        matmul: The program llama3_matmul_bench.
        peers: Engines for llama3-bench --compare, separated by commas.
        types: GGML types, separated by commas. (default: all)
        cpu: Heading of this CPU's section. (default: the name in /proc/cpuinfo)
    """
    names = [name for name in peers.split(",") if name]
    Path(folder).mkdir(parents=True, exist_ok=True)
    lines, versions = [], {}
    for type_name in [name for name in types.split(",") if name] or TYPES:
        speeds = _speeds(Path(folder), type_name, names, versions)
        cells = [type_name]
        for test, rows in TESTS.items():
            limits = ", ".join(_share_of_limit(matmul, type_name, columns, rows) for columns in COLUMNS)
            cells += [*speeds[test], limits]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    _update(Path(page), _section(lines, names, versions, cpu or _cpu()))


def _speeds(folder: Path, type_name: str, peers: list[str], versions: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Return our tok/s and the ratios to the peers, each within its own run, per test; "-" if a peer has no result."""
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
    command = ["llama3-bench", "--model-path", str(path), "--output-size", "64", "--repetitions", "3", "--json"]
    speeds: dict[str, float] = {}
    ratios: dict[str, list[str]] = {test: [] for test in TESTS}
    try:
        for peer in peers or [""]:
            # One run per peer: a peer that cannot load the type ends the run.
            bench = subprocess.run([*command, *(["--compare", peer] if peer else [])], capture_output=True, text=True)
            report: dict[str, Any] = (
                json.loads(bench.stdout) if bench.returncode == 0 else {"results": [], "engines": {}}
            )
            versions |= report["engines"]
            medians: dict[str, dict[str, float]] = {test: {} for test in TESTS}
            for result in report["results"]:
                medians[result["test"]][result["engine"]] = result["median"]
            for test, engines in medians.items():
                ours = engines.pop("llama3-onnx", None)
                if ours is not None:
                    speeds.setdefault(test, ours)
                ratios[test].append(f"{ours / engines.popitem()[1]:.2f}" if ours and engines else "-")
    finally:
        path.unlink()
    return {test: (f"{speeds[test]:.4g}" if test in speeds else "-", ", ".join(ratios[test])) for test in TESTS}


def _share_of_limit(program: str, type_name: str, columns: int, rows: int) -> str:
    command = [program, type_name.lower(), "4096", str(columns), str(rows)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    share = re.search(r": (\d+%) \(best", output)
    assert share is not None, output
    return share[1]


def _cpu() -> str:
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return cpu[1] if cpu else "Unknown CPU"


def _section(lines: list[str], peers: list[str], versions: dict[str, str], cpu: str) -> str:
    today = datetime.now(timezone.utc).date()
    engines = "; ".join(f"{name}: {version.removesuffix(', cpu')}" for name, version in versions.items())
    beside = ", ".join(peer if peer == "llama.cpp" else Path(peer).stem.removeprefix("lib") for peer in peers)
    return f"""## {cpu}

{today}. {engines}.

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
