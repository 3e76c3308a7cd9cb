"""The command `llama3-bench`: speed and quality of a model, compared with other engines on the same file."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llama3_models.cli.arguments import MaybePath
from llama3_models.cli.command_line import check_ranges, run
from llama3_models.errors import Llama3Error, UsageError
from llama3_models.exports import Ops
from llama3_models.hub.listing import MODEL_PAGES
from llama3_models.regular_files import open_regular
from llama3_models.terminal import WIDTH, show, show_json, shows_progress, visible
from llama3_models.tokenizer.pre_tokenizers import check_pre_tokenizer

from llama3_runtime import defaults
from llama3_runtime.source.find import check_loras, find_export, find_model, is_export

if TYPE_CHECKING:
    from llama3_models.gguf.file import GGUFFile

    from llama3_runtime.bench.library_peer import LibraryPeer
    from llama3_runtime.bench.llama_cpp_peer import LlamaCpp
    from llama3_runtime.bench.perplexity import Quality
    from llama3_runtime.bench.speed import Engine, Measurement
    from llama3_runtime.bench.token_profile import TokenProfile
    from llama3_runtime.model import Model
    from llama3_runtime.text.tokenizer import Tokenizer

GROUPS = {
    "Model": ["model", "model_path", "lora", "gguf", "tokenizer_path", "pre_tokenizer", "custom_ops_path", "ops"],
    "Speed": ["prompt_size", "output_size", "depth", "repetitions", "profile"],
    "Quality": ["perplexity", "kl", "window", "max_windows"],
    "Machine": ["provider", "threads", "chunk_size"],
    "Output": ["compare", "json"],
}

LETTERS = {"m": "model"}

OURS, LLAMA_CPP = "llama3-onnx", "llama.cpp"

# A hundred times the WikiText-2 test set; a larger text would take days.
_MAX_TEXT_BYTES = 128 << 20

# Nodes with a smaller share of a token's time are shown together.
_SMALL_SHARE = 0.005

# Minimum width of the names in a table that is too wide.
_SHORTEST_NAME = 8


def bench(
    *,
    model: MaybePath | None = None,
    model_path: Path | None = None,
    lora: tuple[MaybePath, ...] = (),
    gguf: Path | None = None,
    tokenizer_path: Path | None = None,
    pre_tokenizer: str | None = None,
    custom_ops_path: Path | None = None,
    ops: Ops | None = None,
    prompt_size: int = 512,
    output_size: int = 128,
    depth: int = 0,
    repetitions: int = 5,
    profile: bool = False,
    perplexity: Path | None = None,
    kl: bool = False,
    window: int = 512,
    max_windows: int | None = None,
    provider: Literal["cpu", "cuda"] = "cpu",
    threads: int | None = None,
    chunk_size: int = defaults.CHUNK_SIZE,
    compare: str | None = None,
    json: bool = False,
) -> int:
    """Measure how fast a model runs, where the time of a token goes, or how well the model predicts.

    Speeds are in tokens per second, named as in llama-bench: pp512 is a prompt of 512 tokens, tg128 is 128 tokens
    generated one by one. With --compare the engines take turns, and the ratios compare their medians.

    Args:
        model: A .gguf file, an export folder, a name from --list-models such as smollm2-135m, or a Hugging Face Hub
            repository as ORG/REPO or ORG/REPO:Q4_K_M. (required, unless --model-path is used)
        model_path: Like --model, but always a path. (default: none)
        lora: Add a LoRA adapter in GGUF, as FILE or FILE:SCALE. The model must be a GGUF.
        gguf: GGUF that an export folder was made from, for --compare and --kl. (default: none)
        tokenizer_path: Tokenizer for --perplexity: a .gguf, tokenizer.json or tokenizer.model. (default: the model's
            own)
        pre_tokenizer: How to split the text: a name from llama.cpp. (default: as the tokenizer's file says)
        custom_ops_path: Library of custom operators to load besides ours. (default: none)
        ops: Operators to export a .gguf with. (default: native, if they were built)
        prompt_size: Size of the prompt in tokens; 0 skips the prompt.
        output_size: Number of tokens to generate; 0 skips generation.
        depth: Number of tokens already in the KV cache.
        repetitions: Number of measurements, after one that does not count.
        profile: Instead of speeds, show how much of a token's time each kind of node takes: an average over
            --output-size tokens, 64 at most.
        perplexity: Instead of speeds, measure the perplexity of this text file. As in llama-perplexity, windows do not
            overlap, and the second half of each is predicted. (default: none)
        kl: Also evaluate the text with a float32 reference of the GGUF and show the divergence from it. Slow.
        window: Size of a window in tokens.
        max_windows: Maximum number of windows. (default: no limit)
        provider: Where to compute.
        threads: Number of CPU threads. (default: one per CPU available to this process)
        chunk_size: Number of prompt tokens to evaluate at a time.
        compare: Also measure this engine on the same GGUF: llama.cpp (needs the package llama-cpp-python), the path of
            a library built from runtime/peers, or both, separated by a comma. (default: none)
        json: Print only a JSON object.

    Examples:
        llama3-bench --model smollm2-135m --compare llama.cpp
        llama3-bench --model llama-3.1-8b.gguf --depth 4096 --repetitions 3
        llama3-bench --model smollm2-135m --output-size 64 --profile
        llama3-bench --model smollm2-135m --perplexity book.txt --kl --max-windows 4
    """
    if model is None and model_path is None:
        raise UsageError("missing --model")
    check_ranges(
        {
            "prompt-size": (prompt_size, 0),
            "output-size": (output_size, 0),
            "depth": (depth, 0),
            "repetitions": (repetitions, 1),
            "window": (window, 4),
            "max-windows": (max_windows, 1),
            "threads": (threads, 1),
            "chunk-size": (chunk_size, 1),
        }
    )
    check_loras(lora)
    if perplexity is None and prompt_size == output_size == 0:
        raise UsageError("--prompt-size and --output-size are both 0, so there is nothing to measure")
    if profile and output_size == 0:
        raise UsageError("--output-size is 0, so there is no token to profile")
    if profile and (compare is not None or perplexity is not None):
        raise UsageError("--profile cannot be used with --compare or --perplexity")
    if kl and perplexity is None:
        raise UsageError("--kl needs --perplexity")
    if max_windows is not None and perplexity is None:
        raise UsageError("--max-windows needs --perplexity")
    if tokenizer_path is not None and perplexity is None:
        raise UsageError("--tokenizer-path needs --perplexity")
    if pre_tokenizer is not None and perplexity is None:
        raise UsageError("--pre-tokenizer needs --perplexity")
    check_pre_tokenizer(pre_tokenizer)
    peers = [] if compare is None else compare.split(",")
    if len(set(peers)) < len(peers):
        raise UsageError(f"--compare names an engine twice: {compare}")
    for peer in peers:
        if peer != LLAMA_CPP and not Path(peer).is_file():
            raise UsageError(f"--compare: {peer!r} is neither llama.cpp nor the path of a library")
    if peers and lora:
        raise UsageError("--compare measures the model without adapters; omit --lora")
    if peers and provider != "cpu":
        raise UsageError("--compare measures on the CPU; omit --provider")
    if perplexity is not None and peers not in ([], [LLAMA_CPP]):
        raise UsageError("--perplexity can be compared only with llama.cpp")

    path = find_model(model_path=model_path, model=model)
    if gguf is None and not is_export(path):
        gguf = path
    if gguf is None and (kl or peers):
        raise Llama3Error(f"{path}: for an export, --kl and --compare need its GGUF; use --gguf FILE")
    text = _read_text(perplexity) if perplexity is not None else None
    if text is not None:
        max_length, sizes = window, [f"--window {window}"]
    else:
        read, written = 0 if profile else prompt_size, output_size
        max_length = depth + max(read, written)
        sizes = [f"--prompt-size {read}" if read > written else f"--output-size {written}"]
        sizes += [f"--depth {depth}"] if depth else []
    engines: dict[str, Engine] = {}
    versions: dict[str, str] = {}

    # Imported late: --help and usage errors must not wait for onnxruntime.
    from llama3_models.gguf.file import GGUFFile

    from llama3_runtime.model import ContextExceededError, Model
    from llama3_runtime.session import has_cuda
    from llama3_runtime.text.tokenizer import Tokenizer

    with contextlib.ExitStack() as stack:
        # First, because its errors say best what is wrong with a file.
        file = stack.enter_context(GGUFFile.open(gguf)) if gguf is not None and (kl or peers) else None
        export = find_export(
            path,
            ops="contrib" if has_cuda(provider) else ops,
            precision="fp16" if has_cuda(provider) else "fp32",
            # Perplexity needs the logits of many positions; with only the last one's, each token would be a call.
            logits="last" if text is None else "selected",
            lora=lora,
        )
        open_model = partial(
            Model.from_folder,
            export.path,
            provider=provider,
            threads=threads,
            max_length=max_length,
            chunk_size=chunk_size,
            custom_ops_path=custom_ops_path,
            weights_folder=export.weights_folder,
        )
        try:
            ours = open_model()
        except ContextExceededError as error:
            raise Llama3Error(
                f"{path}: its context of {error.context_length} positions is too short for {' and '.join(sizes)}; "
                f"lower {'it' if len(sizes) == 1 else 'one of them'}"
            ) from error
        import onnxruntime

        if file is not None and is_export(path) and ours.adapters:
            raise Llama3Error(
                f"{path}: --kl and --compare do not support an export with LoRA adapters; omit both options, or use "
                "--kl with the GGUF as --model and the adapters as --lora"
            )
        engines[OURS] = ours
        versions[OURS] = f"onnxruntime {onnxruntime.__version__}, {ours.device}"
        # llama.cpp returns several rows of logits only for one chunk, so a window must be one chunk.
        chunk = chunk_size if text is None else max(chunk_size, window)
        for peer in peers:
            assert gguf is not None
            other = _open_peer(peer, gguf, threads=ours.threads, max_length=max_length, chunk_size=chunk)
            stack.enter_context(other)
            engines[other.name] = other
            versions[other.name] = f"{other.origin}, cpu"

        report: dict[str, Any] = {"model": str(path), "threads": ours.threads, "engines": versions}
        if not json:  # before measuring, which is slow
            show(f"{path.resolve().name}, {ours.threads} threads")
            show(*(f"{name}: {version}" for name, version in versions.items()), "")
        if profile:
            from llama3_runtime.bench.token_profile import profile_tokens

            token = profile_tokens(ours, open_model, tokens=output_size, depth=depth)
            report |= {"depth": depth, "token": {**asdict(token), "all_nodes": token.all_nodes}}
            table = _profile_table(token)
        elif text is None:
            from llama3_runtime.bench.speed import measure

            measurements = measure(
                engines, prompt_size=prompt_size, output_size=output_size, depth=depth, repetitions=repetitions
            )
            report |= {
                "repetitions": repetitions,
                "chunk_size": chunk_size,
                "results": [_as_data(result) for result in measurements],
                "ratios": _ratios(measurements),
            }
            table = _speed_table(measurements)
        else:
            own = ours.path if is_export(path) else path
            tokenizer = Tokenizer.from_path(tokenizer_path or own, pre_tokenizer=pre_tokenizer)
            windows = _cut(text, tokenizer, ours, window, max_windows)
            qualities = _evaluate(engines, windows, file if kl else None, lora)
            report |= {
                "window": window,
                "windows": len(windows),
                "results": [asdict(quality) for quality in qualities],
            }
            table = _quality_table(qualities)
    if json:
        show_json(report)
    else:
        show(*table)
    return 0


def main() -> int:
    """Run the console script."""
    return run(bench, name="llama3-bench", groups=GROUPS, letters=LETTERS, pages=MODEL_PAGES, meant=lambda _: "model")


def _open_peer(name: str, gguf: Path, *, threads: int, max_length: int, chunk_size: int) -> LlamaCpp | LibraryPeer:
    if name == LLAMA_CPP:
        from llama3_runtime.bench.llama_cpp_peer import LlamaCpp

        return LlamaCpp(gguf, threads=threads, max_length=max_length, chunk_size=chunk_size)
    from llama3_runtime.bench.library_peer import LibraryPeer

    return LibraryPeer(Path(name), gguf, threads=threads, max_length=max_length, chunk_size=chunk_size)


def _read_text(path: Path) -> str:
    with open_regular(path) as file:
        data = file.read(_MAX_TEXT_BYTES + 1)
    if len(data) > _MAX_TEXT_BYTES:
        raise Llama3Error(f"{path}: has more than {_MAX_TEXT_BYTES:,} bytes; use a part of it")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Llama3Error(f"{path}: not UTF-8 (byte {error.start}); convert it, for example with iconv") from None


def _cut(text: str, tokenizer: Tokenizer, model: Model, window: int, max_windows: int | None) -> list[list[int]]:
    """Cut a text into windows of tokens."""
    from llama3_runtime.bench.perplexity import cut_windows

    tokenizer.check_rows(model.vocab_size, model.path)
    bos = tokenizer.bos_id if tokenizer.adds_bos else None
    return cut_windows(tokenizer.encode(text), window=window, bos=bos, limit=max_windows)


def _evaluate(
    engines: Mapping[str, Engine], windows: Sequence[Sequence[int]], file: GGUFFile | None, lora: Sequence[str]
) -> list[Quality]:
    """Evaluate all windows; on a terminal, show the result of each on standard error."""
    from llama3_models.lora import parse_loras, read_adapters

    from llama3_runtime.bench.perplexity import evaluate

    qualities: list[Quality] = []
    adapters = read_adapters(parse_loras(lora), file) if file is not None else ()
    for count, qualities in enumerate(evaluate(engines, windows, gguf=file, adapters=adapters), start=1):
        if shows_progress():
            figures = ", ".join(f"{quality.engine} {quality.perplexity:.4f}" for quality in qualities)
            sys.stderr.write(f"\rwindow {count} of {len(windows)}: {visible(figures)}")
            sys.stderr.write("\n" if count == len(windows) else "")
            sys.stderr.flush()
    return qualities


def _as_data(result: Measurement) -> dict[str, Any]:
    figures = {"median": result.median, "mean": result.mean, "deviation": result.deviation}
    return {**asdict(result), **figures}


def _ratios(measurements: Sequence[Measurement]) -> dict[str, dict[str, float]]:
    """Return our median divided by each other engine's, by test and engine."""
    ours = {result.test: result.median for result in measurements if result.engine == OURS}
    ratios: dict[str, dict[str, float]] = {}
    for result in measurements:
        if result.engine != OURS:
            ratios.setdefault(result.test, {})[result.engine] = ours[result.test] / result.median
    return ratios


def _speed_table(measurements: Sequence[Measurement]) -> list[str]:
    rows = [["test", "engine", "median tok/s", "mean ± deviation"]]
    for result in measurements:
        test = result.test + (f" @ d{result.depth}" if result.depth else "")
        rows.append([test, result.engine, f"{result.median:.2f}", f"{result.mean:.2f} ± {result.deviation:.2f}"])
    ratios = [
        f"{test}: {ratio:.2f} times as fast as {engine}"
        for test, peers in _ratios(measurements).items()
        for engine, ratio in peers.items()
    ]
    return [*_table(rows, names=1), *([""] if ratios else []), *ratios]


def _profile_table(token: TokenProfile) -> list[str]:
    rows = [["node", "calls", "µs", "share"]]
    small = [node for node in token.nodes if node.microseconds < _SMALL_SHARE * token.all_nodes]
    times = [(node.node, node.calls, node.microseconds) for node in token.nodes if node not in small]
    times.append(("others", sum(node.calls for node in small), sum(node.microseconds for node in small)))
    for node, calls, microseconds in times:
        rows.append([node, f"{calls:.0f}", f"{microseconds:.0f}", f"{microseconds / token.all_nodes:.1%}"])
    rows.append(["all nodes", f"{sum(node.calls for node in token.nodes):.0f}", f"{token.all_nodes:.0f}", ""])
    rows.append(["one token without the profiler", "", f"{token.without_profiler:.0f}", ""])
    return _table(rows)


def _quality_table(qualities: Sequence[Quality]) -> list[str]:
    with_kl = any(quality.mean_kl is not None for quality in qualities)
    rows = [["engine", "perplexity", *(["mean KL (nats)", "same top token"] if with_kl else [])]]
    for quality in qualities:
        row = [quality.engine, f"{quality.perplexity:.4f} ± {quality.standard_error:.4f}"]
        if with_kl:
            row.append("" if quality.mean_kl is None else f"{quality.mean_kl:.3g}")
            row.append("" if quality.top1_agreement is None else f"{quality.top1_agreement:.2%}")
        rows.append(row)
    return _table(rows)


def _table(rows: Sequence[Sequence[str]], *, names: int = 0) -> list[str]:
    """Return the lines of a Markdown table with aligned columns; the first row is the heading.

    Args:
        rows: Cells.
        names: Column whose cells are shortened if the table does not fit in a terminal of 80 columns.
    """
    cells = [[visible(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    excess = sum(widths) + 3 * len(widths) + 1 - WIDTH
    if excess > 0:
        widths[names] = max(widths[names] - excess, _SHORTEST_NAME)
    for row in cells:
        row[names] = _shortened(row[names], widths[names])
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _shortened(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width - 3]}..."
