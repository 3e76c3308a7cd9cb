"""The generation loop: a sequence's waiting tokens through the model, its next token, a piece of text; again."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llama3_models.errors import Llama3Error

from llama3_runtime.metrics import GenerationFigures
from llama3_runtime.model import Model, ModelOptions
from llama3_runtime.sampling.params import SamplingParams
from llama3_runtime.sequence import FinishReason, Ids, Piece, Sequence
from llama3_runtime.session import has_cuda
from llama3_runtime.source.find import Encoding, find_export, find_model
from llama3_runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from types import TracebackType

    from llama3_models.exports import Ops
    from typing_extensions import Self, Unpack

_DEFAULT_PARAMS = SamplingParams()


@dataclass(frozen=True, kw_only=True)
class GenerationResult(GenerationFigures):
    """A generated text, and its counts and times.

    Attributes:
        text: The text, without the prompt, the end-of-generation token and a stop text.
        ids: Its tokens; those of a stop text are the last ones.
        finish_reason: Why it ended; None if it has not.
        stop: The stop text that ended it, if one did.
    """

    text: str
    ids: list[int]
    finish_reason: FinishReason | None
    stop: str | None


class Generation(Iterator[Piece]):
    """One text as it is generated: an iterator over its pieces, which `Generator.stream` makes.

    The model runs when a piece is asked for. The last piece has a `finish_reason`.

    Attributes:
        sequence: The state of the text.
        thread: The thread that asked for a piece last.
    """

    def __init__(self, generator: Generator, sequence: Sequence, tokenization_seconds: float) -> None:
        self.sequence = sequence
        self.thread: threading.Thread | None = None
        self._generator = generator
        self._texts: list[str] = []
        self._broken = False
        self._tokenization_seconds = tokenization_seconds
        self._started: float | None = None
        self._first = self._last = 0.0  # when tokens came

    @property
    def is_over(self) -> bool:
        """Whether no piece will come."""
        sequence = self.sequence
        return sequence.finish_reason is not None or (self._broken and not sequence.interrupted)

    def __next__(self) -> Piece:
        """The next piece.

        Raises:
            Llama3Error: the model cannot be run.
            RuntimeError: the generator was closed, another thread is using it, or another generation has begun since.
        """
        if self.is_over:
            raise StopIteration
        piece = self.sequence.finish("interrupt") if self.sequence.interrupted else self._run()
        self._texts.append(piece.text)
        return piece

    def _run(self) -> Piece:
        with self._generator.reserved(self):
            if self._started is None:
                self._started = time.perf_counter()
            try:
                piece = self._generator.step(self.sequence)
            except BaseException:  # Ctrl-C among them: the cache is in an unknown state
                self._broken = True
                raise
            if piece.ids:
                self._last = time.perf_counter()
                self._first = self._first or self._last
            return piece

    def interrupt(self) -> None:
        """End the text: the next piece is the last one and has what was held back.

        Any thread may call it. A prompt that is being evaluated ends after its current chunk.
        """
        self.sequence.interrupted = True

    def result(self) -> GenerationResult:
        """All that has come so far."""
        sequence = self.sequence
        ids = sequence.ids[sequence.prompt_size :]
        return GenerationResult(
            text="".join(self._texts),
            ids=ids,
            finish_reason=sequence.finish_reason,
            stop=sequence.stop,
            prompt_size=sequence.prompt_size,
            output_size=len(ids),
            tokenization_seconds=self._tokenization_seconds,
            prompt_seconds=self._first - self._started if ids and self._started is not None else None,
            generation_seconds=self._last - self._first if ids else None,
        )


class Generator:
    """Generates text from an exported model, one text at a time: there is one KV cache.

    A generation that is continued after a later one began raises a RuntimeError. So does one that begins in a thread
    while another thread's is unfinished; load a Generator for each thread, or use a lock of your own.

    Attributes:
        model: The graph with its KV cache.
        tokenizer: Text to ids and back.
        load_seconds: How long loading both took, without an export or a download before.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer) -> None:
        if tokenizer.vocab_size > model.vocab_size:
            raise Llama3Error(
                f"the tokenizer has {tokenizer.vocab_size} tokens and the model {model.vocab_size}: "
                "they do not belong together"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.load_seconds = 0.0
        self._lock = threading.Lock()
        self._latest: weakref.ref[Generation] | None = None
        self._closed = False

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        encoding: Encoding | None = None,
        ops: Ops | None = None,
        tokenizer: Tokenizer | str | Path | None = None,
        **options: Unpack[ModelOptions],
    ) -> Self:
        """Load an export, or a GGUF, which is exported into the cache the first time.

        Args:
            path: The export folder, the .onnx file in it, or the .gguf.
            encoding: How the weights must be encoded; None takes what is there.
            ops: How a GGUF is exported for the CPU, and what an export must have; None for native ops where they were
                built.
            tokenizer: Another tokenizer than the model's, or the path of its .gguf, tokenizer.json or tokenizer.model.
            options: See `Model.from_folder`.

        Raises:
            Llama3Error: there is no model there, or it cannot be exported, loaded or run.
        """
        cuda = has_cuda(options.get("provider", "cpu"))
        export = find_export(
            find_model(model_path=Path(path)),
            encoding=encoding,
            # CUDA knows stock ops only, and its attention only float16.
            ops="contrib" if cuda else ops,
            precision="fp16" if cuda else "fp32",
        )
        if export.weights_folder is not None:
            options = {"weights_folder": export.weights_folder, **options}
        start = time.perf_counter()
        model = Model.from_folder(export.path, **options)
        if not isinstance(tokenizer, Tokenizer):
            tokenizer = Tokenizer.from_path(Path(tokenizer) if tokenizer is not None else model.path)
        generator = cls(model, tokenizer)
        generator.load_seconds = time.perf_counter() - start
        return generator

    def stream(self, prompt: str | Ids, params: SamplingParams = _DEFAULT_PARAMS) -> Generation:
        """Generate a text piece by piece.

        Args:
            prompt: A text, which gets the BOS token where the model wants one and whose special tokens stay text; or
                token ids, which go in as they are.
            params: How tokens are chosen, and when the text ends.

        Returns:
            An iterator of pieces. Nothing runs before the first is asked for, but a prompt that cannot be run is
            refused at once.

        Raises:
            Llama3Error: the prompt has no token, one that the model does not know, or more than fit.
        """
        if isinstance(prompt, bytes | bytearray):
            raise TypeError("a prompt is a str or token ids, not bytes")
        start = time.perf_counter()
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        seconds = time.perf_counter() - start if isinstance(prompt, str) else 0.0
        sequence = Sequence(ids, params, self.tokenizer, self.model.max_length)
        self._check_prompt(sequence.ids)
        return Generation(self, sequence, seconds)

    def generate(self, prompt: str | Ids, params: SamplingParams = _DEFAULT_PARAMS) -> GenerationResult:
        """Generate a whole text; see `stream` for the arguments and errors.

        Raises:
            Llama3Error: the prompt cannot be run, or the model.
            RuntimeError: the generator was closed, or another thread is using it.
        """
        generation = self.stream(prompt, params)
        for _ in generation:
            pass
        return generation.result()

    def warm_up(self) -> None:
        """Run the graph once, so that first-time costs (pages, thread pools, allocations) are paid.

        Raises:
            RuntimeError: the generator was closed, or another thread is using it.
        """
        with self.reserved(None):
            self.model.rewind()
            self.model.forward([0])
            self.model.rewind()

    def close(self) -> None:
        """Release the model and its memory; waits for a step that another thread is in. May be called again."""
        closed, self._closed = self._closed, True
        if not closed:
            with self._lock:
                self.model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def reserved(self, generation: Generation | None) -> Iterator[None]:
        """Keep other threads away while the model runs, and the cache for this generation; None ends the latest one.

        Raises:
            RuntimeError: another thread or a later generation has it.
        """
        if not self._lock.acquire(blocking=False):
            self._check_open()
            raise RuntimeError("another thread is using this Generator; load one for each thread")
        try:
            self._check_open()
            self._hand_over(generation)
            yield
        finally:
            self._lock.release()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this Generator was closed")

    def _hand_over(self, generation: Generation | None) -> None:
        """Give the cache to a generation that begins; one that has it keeps it, and one that had it fails."""
        latest = self._latest() if self._latest is not None else None
        thread = threading.current_thread()
        if generation is None or generation is not latest:
            if generation is not None and generation.thread is not None:
                raise RuntimeError("a later generation has taken this Generator's KV cache; use a Generator for each")
            if latest is not None and not latest.is_over and latest.thread is not thread and _is_alive(latest.thread):
                raise RuntimeError(
                    "another thread's generation is unfinished; load a Generator for each thread, or end it first"
                )
            self.model.rewind()
            self._latest = weakref.ref(generation) if generation is not None else None
        if generation is not None:
            generation.thread = thread

    def step(self, sequence: Sequence) -> Piece:
        """Run the model on what a sequence waits for, and give it its next token. Its cache must be reserved."""
        if sequence.is_full:
            return sequence.finish("length")
        for chunk in self.model.chunks(sequence.waiting):
            if sequence.interrupted:
                return sequence.finish("interrupt")
            logits = self.model.forward(chunk)[-1]
        try:
            return sequence.accept(logits)
        except Llama3Error as error:
            raise Llama3Error(f"{self.model.path}: {error}") from error

    def _check_prompt(self, ids: list[int]) -> None:
        if not ids:
            raise Llama3Error("the prompt has no tokens; give at least one")
        if min(ids) < 0 or max(ids) >= self.model.vocab_size:
            raise Llama3Error(f"the prompt has token ids outside of 0 .. {self.model.vocab_size - 1}")
        if len(ids) > self.model.max_length:
            raise Llama3Error(
                f"the prompt has {len(ids)} tokens, more than max-length {self.model.max_length} "
                f"(the model's context is {self.model.context_length}): shorten it or raise --max-length"
            )


def _is_alive(thread: threading.Thread | None) -> bool:
    return thread is not None and thread.is_alive()
