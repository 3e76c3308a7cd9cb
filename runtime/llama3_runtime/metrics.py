"""What a generation cost: sizes, times, throughputs and memory, as lines to read and as data.

Prompt throughput is prompt tokens over the time from the first chunk to the first token. Generation throughput leaves
the first token out, since the prompt's evaluation gives it: (tokens - 1) over the time from first token to last.
"""

import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from llama3_models.units import format_bytes


@dataclass(frozen=True, kw_only=True)
class GenerationFigures:
    """Counts and times of one generation, in seconds; None where no token came, and so no time passed.

    Attributes:
        prompt_size: Tokens of the prompt.
        output_size: Tokens that were generated.
        tokenization_seconds: Turning the prompt into tokens; 0 for a prompt of ids.
        prompt_seconds: From the start of the prompt's evaluation to the first token.
        generation_seconds: From the first token to the last.
    """

    prompt_size: int
    output_size: int
    tokenization_seconds: float
    prompt_seconds: float | None
    generation_seconds: float | None

    @property
    def first_token_seconds(self) -> float | None:
        """From the prompt as text to the first token."""
        return None if self.prompt_seconds is None else self.tokenization_seconds + self.prompt_seconds

    @property
    def prompt_tokens_per_second(self) -> float | None:
        """How fast the prompt was read (context encoding, prefill)."""
        return _rate(self.prompt_size, self.prompt_seconds)

    @property
    def generated_tokens_per_second(self) -> float | None:
        """How fast tokens were generated (decode), the first left out; None with fewer than two."""
        return _rate(self.output_size - 1, self.generation_seconds)


@dataclass(frozen=True, kw_only=True)
class Metrics(GenerationFigures):
    """The figures of a run with one generation.

    Attributes:
        startup_seconds: Loading the model, its tokenizer included; an export or a download before that is not.
        warmup_seconds: The warm-up, where one was asked for.
        peak_memory_bytes: The most memory that the process has had resident.
        kv_cache_bytes: What keys and values take, for all positions of --max-length.
    """

    startup_seconds: float
    warmup_seconds: float | None
    peak_memory_bytes: int
    kv_cache_bytes: int

    def lines(self) -> list[str]:
        """The figures in words, one a line."""
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
        """The figures as data: the attributes and what follows from them."""
        return {
            **asdict(self),
            "first_token_seconds": self.first_token_seconds,
            "prompt_tokens_per_second": self.prompt_tokens_per_second,
            "generated_tokens_per_second": self.generated_tokens_per_second,
        }


def peak_memory_bytes() -> int:
    """The most memory that this process has had resident so far."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):  # getrusage also counts what the parent held between fork and exec
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _rate(count: int, seconds: float | None) -> float | None:
    return count / seconds if count > 0 and seconds else None


def _milliseconds(seconds: float | None) -> str:
    return "n/a" if seconds is None else f"{seconds * 1000:.1f} ms"


def _per_second(rate: float | None) -> str:
    return "n/a" if rate is None else f"{rate:.2f} tokens per second"
