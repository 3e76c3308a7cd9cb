"""The speed of every GGML type beside other engines, on two layers with the shapes of Llama 3.1 8B.

    python custom_ops/bench/formats.py FOLDER [PEERS] [TYPE ...]

This writes a model of each type to FOLDER (400 MB at a time), runs `llama3-bench --compare PEERS` on it and prints a
row: tokens per second for a prompt of 512 tokens and for 64 tokens one by one, and the ratio to each peer's speed.
"""

import json
import subprocess
import sys
from pathlib import Path

from gguf import GGMLQuantizationType
from llama3_exporter.formats import table

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.support.llama_gguf import write_llama_gguf

TYPES = tuple(ggml_type.name for ggml_type in (*table.FORMATS, *table.FLOAT_TYPES))


def measure(folder: Path, type_name: str, peers: str) -> dict[str, dict[str, float]]:
    """Return the tokens per second by test and engine, without engines that cannot load the type."""
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
        results: dict[str, dict[str, float]] = {"pp512": {}, "tg64": {}}
        for peer in peers.split(",") if peers else [""]:
            command = ["llama3-bench", "--model-path", str(path), "--output-size", "64", "--repetitions", "3", "--json"]
            run = subprocess.run([*command, *(["--compare", peer] if peer else [])], capture_output=True, text=True)
            for result in json.loads(run.stdout)["results"] if run.returncode == 0 else ():
                results[result["test"]].setdefault(result["engine"], result["median"])
        return results
    finally:
        path.unlink()


def main() -> None:
    """Print the table, row by row."""
    folder = Path(sys.argv[1])
    peers = sys.argv[2] if len(sys.argv) > 2 else ""
    folder.mkdir(parents=True, exist_ok=True)
    for type_name in sys.argv[3:] or TYPES:
        cells = []
        for engines in measure(folder, type_name, peers).values():
            ours = engines.pop("llama3-onnx", float("nan"))
            ratios = ", ".join(f"{ours / other:.2f} x {name}" for name, other in engines.items())
            cells.append(f"{ours:.1f}" + (f" ({ratios})" if ratios else ""))
        print(f"| {type_name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
