"""The generation loop: run the model on the waiting tokens, choose the next one, return its text."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from llama3_models.errors import Llama3Error, UsageError
from llama3_models.hub.catalogue import Encoding
from llama3_models.tokenizer.pre_tokenizers import check_pre_tokenizer

from llama3_runtime.metrics import GenerationFigures
from llama3_runtime.model import Model, ModelOptions
from llama3_runtime.sampling.params import SamplingParams
from llama3_runtime.sequence import FinishReason, Ids, Piece, Sequence
from llama3_runtime.session import has_cuda
from llama3_runtime.source.find import find_export, find_model, is_export
from llama3_runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from types import TracebackType

    from llama3_models.exports import Ops
    from llama3_models.lora import Loras
    from typing_extensions import Self, Unpack

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of prompt tokens evaluated so far, and their total."""

_DEFAULT_PARAMS = SamplingParams()

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GenerationResult(GenerationFigures):
    """A generated text with its counts and times.

    Attributes:
        text: The text, without the prompt, the end-of-generation token and the stop text.
        ids: Its token ids, including those of the stop text.
        finish_reason: Why it ended; None if it has not.
        stop: The stop text that ended it, if one did.
    """

    text: str
    ids: list[int]
    finish_reason: FinishReason | None
    stop: str | None


class Generation(Iterator[Piece]):
    """One text as it is generated: an iterator over its pieces, returned by `Generator.stream`.

    The model runs only when a piece is requested. The last piece has a `finish_reason`.
    """

    def __init__(
        self, model: Model, sequence: Sequence, tokenization_seconds: float, progress: Progress | None
    ) -> None:
        self._model = model
        self._sequence = sequence
        self._progress = progress
        self._texts: list[str] = []
        self._broken = False
        self._running = threading.Lock()
        self._tokenization_seconds = tokenization_seconds
        # When the model started, and when the first and last tokens came.
        self._started: float | None = None
        self._first: float | None = None
        self._last: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether it no longer needs the model."""
        return self._broken or self._sequence.interrupted or self._sequence.finish_reason is not None

    def __next__(self) -> Piece:
        """Return the next piece.

        Raises:
            Llama3Error: the model cannot be run.
            RuntimeError: the generator was closed, another thread is using it or this generation, or another
                generation is unfinished.
        """
        if not self._running.acquire(blocking=False):
            raise RuntimeError("another thread is using this generation; request its pieces from one thread at a time")
        try:
            return self._next()
        finally:
            self._running.release()

    def _next(self) -> Piece:
        sequence = self._sequence
        if sequence.finish_reason is None and sequence.interrupted:  # without the model: another text may be using it
            piece = sequence.finish("interrupt")
            self._texts.append(piece.text)
            return piece
        if self.is_over:
            raise StopIteration
        with self._model.turns.take(self) as is_new:
            if is_new:
                self._model.rewind()
                self._started = time.perf_counter()
            try:
                piece = self._step()
                if piece.ids:
                    self._last = time.perf_counter()
                    if self._first is None:
                        self._first = self._last
                self._texts.append(piece.text)
            except BaseException:  # including Ctrl-C: the content of the cache is now unknown
                self._broken = True
                raise
            return piece

    def _step(self) -> Piece:
        """Run the model on the waiting tokens, and choose the next one."""
        model, sequence = self._model, self._sequence
        if sequence.is_full:
            return sequence.finish("length")
        done, total = 0, len(sequence.waiting)
        self._report(done, total)
        for chunk in model.chunks(sequence.waiting):
            if sequence.interrupted:
                return sequence.finish("interrupt")
            logits = model.forward(chunk)[-1]
            done += len(chunk)
            self._report(done, total)
        try:
            return sequence.accept(logits)
        except Llama3Error as error:
            raise Llama3Error(f"{model.path}: {error}") from error

    def _report(self, done: int, total: int) -> None:
        if self._progress is not None and self._first is None:  # still evaluating the prompt
            self._progress(done, total)

    def interrupt(self) -> None:
        """End the text: the next piece is the last one, with the text that was held back.

        Any thread may call it. If the prompt is still being evaluated, it stops after the current chunk.
        """
        self._sequence.interrupted = True

    def result(self) -> GenerationResult:
        """Return everything generated so far."""
        sequence = self._sequence
        ids = sequence.ids[sequence.prompt_size :]
        return GenerationResult(
            text="".join(self._texts),
            ids=ids,
            finish_reason=sequence.finish_reason,
            stop=sequence.stop,
            prompt_size=sequence.prompt_size,
            output_size=len(ids),
            tokenization_seconds=self._tokenization_seconds,
            prompt_seconds=_between(self._started, self._first),
            generation_seconds=_between(self._first, self._last),
        )


class Generator:
    """An exported model and its tokenizer. It has one KV cache, so it generates one text at a time.

    A generation holds the cache from its first piece until it ends, is interrupted, or is no longer referenced. If
    another one begins before that, in any thread, the new one raises a RuntimeError.

    Attributes:
        model: The graph with its KV cache.
        tokenizer: Converts between text and token ids.
        load_seconds: Time to load both, without an earlier export or download.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer) -> None:
        """Pair a model with a tokenizer.

        Raises:
            Llama3Error: the tokenizer has more tokens than the model.
        """
        tokenizer.check_rows(model.vocab_size, model.path)
        self.model = model
        self.tokenizer = tokenizer
        self.load_seconds = 0.0

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        encoding: Encoding | None = None,
        ops: Ops | None = None,
        tokenizer: Tokenizer | str | Path | None = None,
        pre_tokenizer: str | None = None,
        lora: Loras = (),
        **options: Unpack[ModelOptions],
    ) -> Self:
        """Load an export or a GGUF. A GGUF is exported to the cache the first time.

        Args:
            path: The export folder, the .onnx file in it, or the .gguf.
            encoding: Encoding that the weights must have; None accepts any.
            ops: For a GGUF, the ops to export it with for the CPU (None: native, if they were built). For an export,
                the ops that it must have (None: any).
            tokenizer: A tokenizer other than the model's, or the path of its .gguf, tokenizer.json or tokenizer.model.
            pre_tokenizer: How text is split, by the name that GGUFs use for it; None follows the tokenizer's file.
            lora: LoRA adapters for a GGUF: a path, `FILE:SCALE`, or a list of these.
            options: See `Model.from_folder`.

        Raises:
            UsageError: `pre_tokenizer` is unknown, or the tokenizer does not have one.
            Llama3Error: there is no model at `path`, or it cannot be exported, loaded or run.
        """
        check_pre_tokenizer(pre_tokenizer)  # before an export
        if pre_tokenizer is not None and isinstance(tokenizer, Tokenizer):
            raise UsageError("pre_tokenizer does not apply to a loaded tokenizer; pass it to Tokenizer.from_path")
        cuda = has_cuda(options.get("provider", "cpu"))
        path = find_model(model_path=Path(path))
        export = find_export(
            path,
            encoding=encoding,
            # Native ops do not run on CUDA, and its attention needs float16.
            ops="contrib" if cuda else ops,
            precision="fp16" if cuda else "fp32",
            lora=lora,
        )
        if options.get("weights_folder") is None:
            options["weights_folder"] = export.weights_folder
        start = time.perf_counter()
        model = Model.from_folder(export.path, **options)
        if not isinstance(tokenizer, Tokenizer):
            # The tokenizer in a GGUF has more details than the files of its export.
            own = model.path if is_export(path) else path
            if pre_tokenizer is not None and tokenizer is None and is_export(path):
                logger.warning(
                    "%s: using the pre-tokenizer %s in this run; the export's files do not change", path, pre_tokenizer
                )
            tokenizer = Tokenizer.from_path(own if tokenizer is None else tokenizer, pre_tokenizer=pre_tokenizer)
        generator = cls(model, tokenizer)
        generator.load_seconds = time.perf_counter() - start
        return generator

    def stream(
        self, prompt: str | Ids, params: SamplingParams = _DEFAULT_PARAMS, progress: Progress | None = None
    ) -> Generation:
        """Generate a text piece by piece.

        Args:
            prompt: A text, or token ids, which are used as they are. A text gets a BOS token if the model expects one;
                special tokens in it are treated as plain text.
            params: How tokens are chosen, and when the text ends.
            progress: Called before the first chunk of the prompt and after each one.

        Returns:
            An iterator of pieces. Nothing runs before the first one is requested, but a prompt that cannot be run is
            refused at once.

        Raises:
            Llama3Error: the prompt is empty or too long, or has an unknown token id.
            RuntimeError: the generator was closed.
        """
        if isinstance(prompt, bytes | bytearray | Mapping):
            raise TypeError(f"a prompt is a str or a sequence of token ids, not {type(prompt).__name__}")
        self.model.turns.check_open()
        start = time.perf_counter()
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        seconds = time.perf_counter() - start if isinstance(prompt, str) else 0.0
        sequence = Sequence(ids, params, self.tokenizer, self.model.max_length)
        self._check_prompt(sequence.ids)
        return Generation(self.model, sequence, seconds, progress)

    def generate(self, prompt: str | Ids, params: SamplingParams = _DEFAULT_PARAMS) -> GenerationResult:
        """Generate a whole text. See `stream` for the arguments.

        Raises:
            Llama3Error: the prompt or the model cannot be run.
            RuntimeError: the generator was closed, or another thread is using it.
        """
        generation = self.stream(prompt, params)
        for _ in generation:
            pass
        return generation.result()

    def warm_up(self) -> None:
        """Run the graph once, to pay first-time costs (pages, thread pools, allocations) in advance.

        Raises:
            RuntimeError: the generator was closed, another thread is using it, or a generation is unfinished.
        """
        with self.model.turns.take(None):
            self.model.rewind()
            self.model.forward([0])
            self.model.rewind()

    def close(self) -> None:
        """Release the model and its memory, once no other thread is running it. May be called again."""
        self.model.turns.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_prompt(self, ids: list[int]) -> None:
        if not ids:
            raise Llama3Error("the prompt is empty")
        if min(ids) < 0 or max(ids) >= self.model.vocab_size:
            raise Llama3Error(f"the prompt has token ids outside 0 .. {self.model.vocab_size - 1}")
        if len(ids) > self.model.max_length:
            context = self.model.context_length
            room, advice = f"--max-length {self.model.max_length}", ""
            if self.model.max_length == context:
                room = f"the context of {context} positions"
            elif len(ids) < context:
                advice = f" or raise --max-length (up to {context})"
            raise Llama3Error(f"the prompt has {len(ids)} tokens, more than {room}; shorten it{advice}")


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else end - start
