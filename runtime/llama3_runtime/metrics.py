"""The cost of a generation: sizes, times, throughputs and memory, as lines to read and as data.

Prompt throughput is the number of prompt tokens over the time from the first chunk to the first token. Generation
throughput is (tokens - 1) over the time from the first token to the last: evaluating the prompt produces the first one.
"""

import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from llama3_models.units import format_bytes


@dataclass(frozen=True, kw_only=True)
class GenerationFigures:
    """Counts and times of one generation, in seconds; None if no token was generated.

    Attributes:
        prompt_size: Number of tokens in the prompt.
        output_size: Number of tokens generated.
        tokenization_seconds: Time to turn the prompt into tokens; 0 for a prompt of ids.
        prompt_seconds: Time from the start of the prompt's evaluation to the first token.
        generation_seconds: Time from the first token to the last.
    """

    prompt_size: int
    output_size: int
    tokenization_seconds: float
    prompt_seconds: float | None
    generation_seconds: float | None

    @property
    def first_token_seconds(self) -> float | None:
        """Time to the first token, including tokenization."""
        return None if self.prompt_seconds is None else self.tokenization_seconds + self.prompt_seconds

    @property
    def prompt_tokens_per_second(self) -> float | None:
        """Speed of evaluating the prompt (context encoding, prefill)."""
        return _rate(self.prompt_size, self.prompt_seconds)

    @property
    def generated_tokens_per_second(self) -> float | None:
        """Speed of generating tokens after the first one (decode); None with fewer than two."""
        return _rate(self.output_size - 1, self.generation_seconds)


@dataclass(frozen=True, kw_only=True)
class Metrics(GenerationFigures):
    """The figures of a run with one generation.

    Attributes:
        startup_seconds: Time to load the model and its tokenizer, without an earlier export or download.
        warmup_seconds: Time of the warm-up, if one was requested.
        peak_memory_bytes: Peak resident memory of the process.
        kv_cache_bytes: Memory of the KV cache, for all positions of --max-length.
    """

    startup_seconds: float
    warmup_seconds: float | None
    peak_memory_bytes: int
    kv_cache_bytes: int

    def lines(self) -> list[str]:
        """Return the figures in words, one per line."""
        lines = [
            f"Prompt size: {self.prompt_size}",
            f"Output size: {self.output_size}",
            f"Startup time: {_milliseconds(self.startup_seconds)}",
        ]
        if self.warmup_seconds is not None:
            lines.append(f"Warmup time: {_milliseconds(self.warmup_seconds)}")
        return [
            *lines,
            f"Time to first token: {_milliseconds(self.first_token_seconds)}",
            f"Tokenization time: {_milliseconds(self.tokenization_seconds)}",
            f"Prompt eval throughput (context-encoding): {_per_second(self.prompt_tokens_per_second)}",
            f"Eval throughput (token-generation): {_per_second(self.generated_tokens_per_second)}",
            f"Maximum memory: {format_bytes(self.peak_memory_bytes)}",
            f"KV cache memory: {format_bytes(self.kv_cache_bytes)}",
        ]

    def as_dict(self) -> dict[str, float | None]:
        """Return the attributes, and the figures computed from them, as data."""
        return {
            **asdict(self),
            "first_token_seconds": self.first_token_seconds,
            "prompt_tokens_per_second": self.prompt_tokens_per_second,
            "generated_tokens_per_second": self.generated_tokens_per_second,
        }


def peak_memory_bytes() -> int:
    """Return the peak resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):  # getrusage also counts the parent's memory between fork and exec
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _rate(count: int, seconds: float | None) -> float | None:
    return count / seconds if count > 0 and seconds else None


def _milliseconds(seconds: float | None) -> str:
    return "n/a" if seconds is None else f"{seconds * 1000:.1f} ms"


def _per_second(rate: float | None) -> str:
    return "n/a" if rate is None else f"{rate:.2f} tokens per second"
