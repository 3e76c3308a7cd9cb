"""The command `llama3-run`: a prompt in, the text that follows it out, and what it took."""

import codecs
import contextlib
import json as json_format
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llama3_models.cli.command_line import INTERRUPTED, check_ranges, run
from llama3_models.errors import Llama3Error, UsageError
from llama3_models.exports import Ops
from llama3_models.hub.listing import MODEL_PAGES

from llama3_runtime import defaults
from llama3_runtime.metrics import Metrics, peak_memory_bytes
from llama3_runtime.sampling.params import SamplingParams
from llama3_runtime.source.find import Encoding, Version, find_model

if TYPE_CHECKING:
    from llama3_runtime.generator import Generation, GenerationResult

DEFAULT_PROMPT = "I believe the meaning of life is"

GROUPS = {
    "Model": ["model", "model_path", "quantization_encoding", "version", "tokenizer_path", "custom_ops_path", "ops"],
    "Prompt and length": ["prompt", "max_length", "max_new_tokens", "stop", "ignore_eos"],
    "Sampling": ["temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed"],
    "Machine": ["provider", "threads", "chunk_size", "warmup_pipeline"],
    "Output": ["stream", "json"],
}

# More than twice what the longest text in a cache of 131,072 tokens takes; an endless one must not fill the memory.
_MAX_PROMPT_BYTES = 16 << 20

logger = logging.getLogger(__name__)


def run_model(
    *,
    model: str | None = None,
    model_path: Path | None = None,
    quantization_encoding: Encoding | None = None,
    version: Version | None = None,
    tokenizer_path: Path | None = None,
    custom_ops_path: Path | None = None,
    ops: Ops | None = None,
    prompt: str = DEFAULT_PROMPT,
    max_length: int | None = None,
    max_new_tokens: int = SamplingParams.max_new_tokens,
    stop: tuple[str, ...] = (),
    ignore_eos: bool = False,
    temperature: float = SamplingParams.temperature,
    top_k: int = SamplingParams.top_k,
    top_p: float = SamplingParams.top_p,
    min_p: float = SamplingParams.min_p,
    repeat_penalty: float = SamplingParams.repeat_penalty,
    seed: int | None = None,
    provider: Literal["cpu", "cuda", "auto"] = "cpu",
    threads: int | None = None,
    chunk_size: int = defaults.CHUNK_SIZE,
    warmup_pipeline: bool = False,
    stream: bool = True,
    json: bool = False,
) -> int:
    """Continues a prompt with a model on ONNX Runtime.

    Prints the prompt and then the text as it is generated; sizes and times go to standard error. A .gguf is exported
    once into the cache ($LLAMA3_CACHE, or ~/.cache/llama3-onnx) and reused while its content is the same.

    Args:
        model: A .gguf file, a folder that llama3-export made, a name of --list-models such as smollm2-135m, or a
            repository of the Hugging Face Hub, ORG/REPO or ORG/REPO:Q4_K_M (default: the Llama of --version).
        model_path: The same, but only a path (default: none).
        quantization_encoding: Which download; of a given model, what it must be (default: q4_k of a download,
            whatever a given model is). float32 needs a file.
        version: Which Llama 8B to download (default: 3.1).
        tokenizer_path: A .gguf, tokenizer.json or tokenizer.model (default: the model's own tokenizer).
        custom_ops_path: A library with custom operators for the graph (default: none but our own).
        ops: How a .gguf is exported for the CPU (default: native, where they were built).
        prompt: The text to continue; - reads standard input, less one line end.
        max_length: Positions of the KV cache, for prompt and new tokens together (default: 512, or the model's
            context where that is shorter).
        max_new_tokens: How many tokens to generate at most; -1 fills the cache.
        stop: A text before which the generated text ends.
        ignore_eos: Go on at an end-of-generation token.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_k: Keep the k likeliest tokens; 0 is off.
        top_p: Keep the likeliest tokens that reach this sum of probabilities; 1 is off.
        min_p: Keep tokens at least this share as likely as the likeliest, after the temperature; 0 is off.
        repeat_penalty: Make the last 64 tokens less likely; 1 is off.
        seed: Repeat the same draws (default: new ones each time).
        provider: Where to compute; auto is cuda where it works.
        threads: Threads of the CPU (default: one for each CPU that this process may use).
        chunk_size: How many tokens of the prompt are evaluated at a time.
        warmup_pipeline: Run the model once before the clock starts.
        stream: Print the text as it comes, not all at the end.
        json: Print one JSON object with text, token ids, finish_reason and metrics, and nothing else.

    Examples:
        llama3-run --model smollm2-135m --prompt "Gravity is" --temperature 0
        llama3-run --model llama-3.1-8b-q4_k_m.gguf --stop "User:" --seed 1
        cat story.txt | llama3-run --prompt - --max-length 4096 --json
    """
    try:
        params = SamplingParams(
            temperature=temperature,
            min_p=min_p,
            top_k=top_k,
            top_p=top_p,
            repeat_penalty=repeat_penalty,
            seed=seed,
            max_new_tokens=max_new_tokens,
            stop=stop,
            ignore_eos=ignore_eos,
        )
    except Llama3Error as error:  # its message begins with the option's name
        raise UsageError(f"--{error}") from error
    check_ranges({"max-length": (max_length, 1), "threads": (threads, 1), "chunk-size": (chunk_size, 1)})
    if prompt == "-":
        prompt = _read_standard_input()
    _write_utf8()

    # Late, so that --help and a wrong option need not wait for onnxruntime.
    from llama3_runtime.loading import load

    generator = load(
        find_model(model_path=model_path, model=model, encoding=quantization_encoding, version=version),
        encoding=quantization_encoding,
        ops=ops,
        tokenizer=tokenizer_path,
        provider=provider,
        threads=threads,
        max_length=max_length,
        chunk_size=chunk_size,
        custom_ops_path=custom_ops_path,
    )
    if generator.model.warning is not None:
        logger.warning("%s", generator.model.warning)
    warmup_seconds = None
    if warmup_pipeline:
        start = time.perf_counter()
        generator.warm_up()
        warmup_seconds = time.perf_counter() - start

    output = _print_generation(generator.stream(prompt, params), prompt if stream and not json else None)
    metrics = Metrics(
        prompt_size=output.prompt_size,
        output_size=len(output.ids),
        startup_seconds=generator.load_seconds,
        warmup_seconds=warmup_seconds,
        tokenization_seconds=output.tokenization_seconds,
        prompt_seconds=output.prompt_seconds,
        generation_seconds=output.generation_seconds,
        kv_cache_bytes=generator.model.kv_cache_bytes,
        peak_memory_bytes=peak_memory_bytes(),
    )
    if json:
        result = {
            "prompt": prompt,
            "text": output.text,
            "ids": output.ids,
            "finish_reason": output.finish_reason,
            "metrics": metrics.as_dict(),
        }
        print(json_format.dumps(result, ensure_ascii=False))
    else:
        print("" if stream else prompt + output.text, flush=True)
        print("\n".join(metrics.lines()), file=sys.stderr)
    return INTERRUPTED if output.finish_reason == "interrupt" else 0


def _print_generation(generation: "Generation", prompt: str | None) -> "GenerationResult":
    """Runs it, printing `prompt` and each piece as it comes, or nothing for None; Ctrl-C ends it with what has come."""
    if prompt is not None:
        print(prompt, end="", flush=True)
    with _ending_the_line(prompt is not None):
        try:
            for piece in generation:
                if prompt is not None and piece.text:
                    print(piece, end="", flush=True)
        except KeyboardInterrupt:
            generation.interrupt()
            for rest in generation:
                if prompt is not None:
                    print(rest, end="", flush=True)
    return generation.result()


@contextlib.contextmanager
def _ending_the_line(streams: bool) -> Iterator[None]:
    """Where text was streamed, an error starts on a line of its own."""
    try:
        yield
    except BaseException as error:
        if streams and not isinstance(error, BrokenPipeError):
            print(flush=True)
        raise


def main() -> int:
    """The console script."""
    return run(run_model, name="llama3-run", groups=GROUPS, pages=MODEL_PAGES)


def _read_standard_input() -> str:
    if sys.stdin is None:
        raise Llama3Error("--prompt - reads standard input, and there is none")
    data = sys.stdin.buffer.read(_MAX_PROMPT_BYTES + 1)
    if len(data) > _MAX_PROMPT_BYTES:
        raise Llama3Error(f"standard input has more than {_MAX_PROMPT_BYTES:,} bytes: shorten it, no prompt is so long")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Llama3Error(f"standard input is not UTF-8 (byte {error.start}); convert it, with iconv for one") from None
    return text.removesuffix("\n").removesuffix("\r")


def _write_utf8() -> None:
    """Makes standard output UTF-8: no other encoding can hold whatever a model may write."""
    stdout = sys.stdout
    if codecs.lookup(stdout.encoding).name == "utf-8":
        return
    logger.warning("standard output is set to %s; the text is written as UTF-8", stdout.encoding)
    stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
