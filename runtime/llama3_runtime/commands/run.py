"""The command `llama3-run`: continue a prompt, and report sizes and speeds."""

import codecs
import contextlib
import logging
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llama3_models.cli.arguments import MaybePath
from llama3_models.cli.command_line import INTERRUPTED, check_ranges, run
from llama3_models.errors import Llama3Error, UsageError
from llama3_models.exports import Ops
from llama3_models.hub.catalogue import Encoding
from llama3_models.hub.listing import MODEL_PAGES
from llama3_models.hub.locate import names_a_model
from llama3_models.regular_files import exists
from llama3_models.terminal import TextWriter, set_quiet, show, show_json, shows_progress
from llama3_models.tokenizer.pre_tokenizers import check_pre_tokenizer

from llama3_runtime import defaults
from llama3_runtime.commands.prompt import read_prompt
from llama3_runtime.metrics import Metrics, peak_memory_bytes
from llama3_runtime.sampling.params import SamplingParams
from llama3_runtime.source.find import Version, check_loras, find_model

if TYPE_CHECKING:
    from llama3_runtime.generator import Generation, GenerationResult
    from llama3_runtime.model import Model

GROUPS = {
    "Model": [
        "model",
        "model_path",
        "quantization_encoding",
        "version",
        "lora",
        "tokenizer_path",
        "pre_tokenizer",
        "custom_ops_path",
        "ops",
    ],
    "Prompt and length": ["prompt", "prompt_file", "max_length", "max_new_tokens", "stop", "ignore_eos"],
    "Sampling": ["temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed"],
    "Machine": ["provider", "threads", "chunk_size", "warmup_pipeline"],
    "Output": ["stream", "json", "quiet"],
}

LETTERS = {"m": "model", "p": "prompt", "n": "max_new_tokens"}

# Escapes as in programming languages, but not after another backslash or before a lower-case letter: \newline is LaTeX.
_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\([nrt])(?![a-z])")
_ESCAPED = {"n": "newline", "r": "carriage return", "t": "tab"}

logger = logging.getLogger(__name__)


def run_model(
    *,
    model: MaybePath | None = None,
    model_path: Path | None = None,
    quantization_encoding: Encoding | None = None,
    version: Version | None = None,
    lora: tuple[MaybePath, ...] = (),
    tokenizer_path: Path | None = None,
    pre_tokenizer: str | None = None,
    custom_ops_path: Path | None = None,
    ops: Ops | None = None,
    prompt: str | None = None,
    prompt_file: Path | None = None,
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
    quiet: bool = False,
) -> int:
    r"""Continue a prompt with a model on ONNX Runtime.

    The prompt is printed first, then the text as it is generated. Sizes and times go to standard error. A .gguf is
    exported to the cache ($LLAMA3_CACHE, or ~/.cache/llama3-onnx) the first time, and again when it changes.

    Args:
        model: A .gguf file, an export folder, a name from --list-models such as smollm2-135m, or a Hugging Face Hub
            repository as ORG/REPO or ORG/REPO:Q4_K_M. (default: the Llama chosen by --version)
        model_path: Like --model, but always a path. (default: none)
        quantization_encoding: Encoding to download; for a file, fail unless it has this encoding. (default: q4_k for
            downloads, any for files)
        version: Llama 8B version to download. (default: 3.1)
        lora: Add a LoRA adapter in GGUF, as FILE or FILE:SCALE. The model must be a GGUF.
        tokenizer_path: Tokenizer to use: a .gguf, tokenizer.json or tokenizer.model. (default: the model's own)
        pre_tokenizer: How to split text before tokenizing: a name from llama.cpp, such as llama-bpe or deepseek-llm.
            (default: as the tokenizer's file says)
        custom_ops_path: Library of custom operators to load besides ours. (default: none)
        ops: Operators to export a .gguf with; CUDA always uses contrib. (default: native, if they were built)
        prompt: Text to continue; - reads standard input, without its final newline. (default: I believe the meaning of
            life is)
        prompt_file: UTF-8 file with the text to continue, without its final newline. (default: none)
        max_length: Size of the KV cache in tokens, for the prompt and the new tokens together. (default: 512, or the
            model's context if that is shorter)
        max_new_tokens: Maximum number of tokens to generate; -1 fills the cache.
        stop: Stop when this text appears. It is taken literally; in bash, $'\n' is a newline.
        ignore_eos: Continue after an end-of-generation token.
        temperature: Divide the logits by this; 0 always picks the most probable token.
        top_k: Keep only the k most probable tokens; 0 turns it off.
        top_p: Keep only the most probable tokens that together reach this probability; 1 turns it off.
        min_p: Drop tokens less probable than this fraction of the most probable one, after temperature; 0 turns it off.
        repeat_penalty: Make the last 64 tokens less probable; 1 turns it off.
        seed: Random seed. (default: a new one each run)
        provider: Where to compute; auto uses CUDA if it is available.
        threads: Number of CPU threads. (default: one per CPU available to this process)
        chunk_size: Number of prompt tokens to evaluate at a time.
        warmup_pipeline: Run the model once before timing starts.
        stream: Print the text as it is generated, not all at once at the end.
        json: Print only a JSON object with text, token ids, finish_reason and metrics.
        quiet: Print only the text, warnings and errors, without figures, progress or notices.

    Examples:
        llama3-run --model smollm2-135m --prompt "Gravity is" --temperature 0
        llama3-run -m smollm2-135m -p "Gravity is" -n 24 --quiet
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
    check_pre_tokenizer(pre_tokenizer)
    check_ranges({"max-length": (max_length, 1), "threads": (threads, 1), "chunk-size": (chunk_size, 1)})
    set_quiet(quiet)
    check_loras(lora)
    for text in stop:
        _warn_of_escape(text)
    prompt = read_prompt(prompt, prompt_file)
    if not json:
        _write_utf8()

    # Imported here because --help and usage errors should not wait for onnxruntime.
    from llama3_runtime.loading import load

    generator = load(
        find_model(model_path=model_path, model=model, encoding=quantization_encoding, version=version),
        encoding=quantization_encoding,
        ops=ops,
        tokenizer=tokenizer_path,
        lora=lora,
        pre_tokenizer=pre_tokenizer,
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

    writer = TextWriter()
    progress = _PromptProgress(chunk_size)
    generation = generator.stream(prompt, params, progress)
    output = _print_generation(generation, prompt, writer if stream and not json else None, progress)
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
        show_json(
            {
                "prompt": prompt,
                "text": output.text,
                "ids": output.ids,
                "finish_reason": output.finish_reason,
                "metrics": metrics.as_dict(),
            }
        )
    else:
        if not stream:
            writer.write(prompt + output.text)
        writer.end()
        if not quiet:
            show(*metrics.lines(), *_why_it_ended(output, max_new_tokens, generator.model), file=sys.stderr)
    return INTERRUPTED if output.finish_reason == "interrupt" else 0


def _print_generation(
    generation: "Generation", prompt: str, writer: TextWriter | None, progress: "_PromptProgress"
) -> "GenerationResult":
    """Run the generation, and write `prompt` and each piece if there is a `writer`; Ctrl-C keeps the text so far."""
    echo = prompt
    # A progress bar would overwrite a prompt that is already printed.
    if writer is not None and not progress.is_due(generation.result().prompt_size):
        writer.write(echo)
        echo = ""
    with _ending_the_line(writer):
        try:
            for piece in generation:
                if writer is not None and (echo or piece.text):
                    writer.write(echo + piece.text)
                    echo = ""
        except KeyboardInterrupt:
            progress.close()
            generation.interrupt()
            for rest in generation:
                if writer is not None:
                    writer.write(echo + rest.text)
        finally:
            progress.close()
    return generation.result()


@contextlib.contextmanager
def _ending_the_line(writer: TextWriter | None) -> Iterator[None]:
    """End the line of streamed text before an error, so the error starts on its own line."""
    try:
        yield
    except BaseException as error:
        if writer is not None and not isinstance(error, BrokenPipeError):
            writer.end()
        raise


def _why_it_ended(output: "GenerationResult", max_new_tokens: int, model: "Model") -> list[str]:
    """Return a line that says what ended the text, unless the model did."""
    if output.finish_reason == "stop":
        return [f"Stopped: at --stop {output.stop!r}"]
    if output.finish_reason == "interrupt":
        return ["Stopped: interrupted"]
    if output.finish_reason != "length":
        return []
    if output.output_size == max_new_tokens:
        return [f"Stopped: after --max-new-tokens {max_new_tokens}"]
    if model.max_length < model.context_length:
        more = f"raise --max-length (up to {model.context_length:,})"
        return [f"Stopped: the KV cache of {model.max_length:,} positions is full; {more}"]
    return [f"Stopped: the model's context of {model.context_length:,} positions is full"]


def meant(word: str) -> str:
    """Return the option that a word without one was probably meant for: the model or the prompt."""
    is_model = exists(word) or word.endswith((".gguf", ".onnx")) or names_a_model(word)
    return "model" if is_model else "prompt"


def main() -> int:
    """Run the console script."""
    return run(run_model, name="llama3-run", groups=GROUPS, letters=LETTERS, pages=MODEL_PAGES, meant=meant)


class _PromptProgress:
    """A progress bar for a prompt of several chunks, if standard error is a terminal."""

    def __init__(self, chunk_size: int) -> None:
        self._chunk_size = chunk_size if shows_progress() else sys.maxsize
        self._bar: Any = None

    def is_due(self, total: int) -> bool:
        """Return whether a prompt of this many tokens gets a bar."""
        return total > self._chunk_size

    def __call__(self, done: int, total: int) -> None:
        if not self.is_due(total):
            return
        if self._bar is None:
            from tqdm import tqdm

            tqdm.monitor_interval = 0  # as in the exporter's progress.py
            self._bar = tqdm(desc="reading the prompt", total=total, unit=" tokens", leave=False, dynamic_ncols=True)
        self._bar.update(done - self._bar.n)
        if done == total:
            self.close()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()


def _warn_of_escape(stop: str) -> None:
    if escape := _ESCAPE.search(stop):
        logger.warning(
            "--stop '%s' stops at a backslash and the letter %s; for a %s, write $'%s' (bash, zsh)",
            *(stop, escape[1], _ESCAPED[escape[1]], stop),
        )


def _write_utf8() -> None:
    """Make standard output UTF-8: other encodings do not have every character that a model may write."""
    stdout = sys.stdout
    if codecs.lookup(stdout.encoding).name == "utf-8":
        return
    logger.warning("standard output is set to %s; the text is written as UTF-8", stdout.encoding)
    stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
