"""The generation loop: a prompt through the model in chunks, then a token at a time through sampler and text stream."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from llama3_models.errors import Llama3Error

from llama3_runtime.model import Model, ModelOptions
from llama3_runtime.sampling.params import SamplingParams
from llama3_runtime.sampling.sampler import Sampler
from llama3_runtime.text.stream import TextStream
from llama3_runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

FinishReason: TypeAlias = Literal["eos", "stop", "length"]
Ids: TypeAlias = "Sequence[int] | npt.NDArray[np.integer[Any]]"

_DEFAULT_PARAMS = SamplingParams()


class Generator:
    """Generates text from an exported model, one text at a time: there is one KV cache.

    A stream that is continued after a later one was begun raises a RuntimeError.

    Attributes:
        model: The graph with its KV cache.
        tokenizer: Text to ids and back.
        finish_reason: Why the last generation ended: `eos` (an end-of-generation token), `stop` (a stop text) or
            `length` (max_new_tokens, or the cache is full); None while it goes on.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer) -> None:
        if tokenizer.vocab_size > model.vocab_size:
            raise Llama3Error(
                f"the tokenizer has {tokenizer.vocab_size} tokens and the model {model.vocab_size}: "
                "they do not belong together"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.finish_reason: FinishReason | None = None
        self._generations = 0

    @classmethod
    def from_folder(
        cls, path: str | Path, *, tokenizer: Tokenizer | None = None, **options: Unpack[ModelOptions]
    ) -> Generator:
        """Load an export: its folder, or the .onnx file in it.

        Args:
            path: The folder or the file.
            tokenizer: Another tokenizer than the export's.
            options: See `Model.from_folder`.

        Raises:
            Llama3Error: there is no export there, or it cannot be loaded or not run there.
        """
        model = Model.from_folder(path, **options)
        return cls(model, tokenizer or Tokenizer.from_path(model.path))

    def stream(self, prompt: str, params: SamplingParams = _DEFAULT_PARAMS) -> Iterator[str]:
        """Generate from a text, with the BOS token before it where the model wants one.

        Yields:
            Pieces of text as they come, never a part of a character or of a stop text.

        Raises:
            Llama3Error: the prompt does not fit.
            RuntimeError: another generation has begun since this one did.
        """
        return self.stream_text(self.tokenizer.encode(prompt), params)

    def stream_text(self, ids: Ids, params: SamplingParams = _DEFAULT_PARAMS) -> Iterator[str]:
        """`stream` from a prompt's ids."""
        text = TextStream(self.tokenizer.token_bytes, params.stop)
        for piece in text.pieces(self.stream_ids(ids, params)):
            if text.stopped:
                self.finish_reason = "stop"
            if piece:
                yield piece

    def stream_ids(self, ids: Ids, params: SamplingParams = _DEFAULT_PARAMS) -> Iterator[int]:
        """Generate from a prompt's ids; stop texts play no part.

        Nothing runs before the first token is asked for, but a prompt that cannot be run is refused at once.

        Returns:
            Token ids as they come; the end-of-generation token itself only with `ignore_eos`.

        Raises:
            Llama3Error: the prompt has no token, one that the model does not know, or more than fit.
            RuntimeError: another generation has begun since this one did.
        """
        tokens = [operator.index(token) for token in ids]
        self._check_prompt(tokens)
        self.finish_reason = None
        self._generations += 1
        return self._generate(tokens, params, self._generations)

    def _generate(self, tokens: list[int], params: SamplingParams, generation: int) -> Iterator[int]:
        model, sampler = self.model, Sampler(params)
        room = model.max_length - len(tokens)
        limit = room if params.max_new_tokens < 0 else min(params.max_new_tokens, room)
        self._require_latest(generation)
        model.rewind()
        chunk = tokens
        for _ in range(limit):
            logits = model.prefill(chunk)
            try:
                token = sampler.sample(logits, tokens)
            except Llama3Error as error:
                raise Llama3Error(f"{model.path}: {error}") from error
            if token in self.tokenizer.eog_ids and not params.ignore_eos:
                self.finish_reason = "eos"
                return
            tokens.append(token)
            chunk = [token]
            yield token
            self._require_latest(generation)
        self.finish_reason = "length"

    def _require_latest(self, generation: int) -> None:
        if generation != self._generations:
            raise RuntimeError("a later generation has taken this Generator's KV cache; use a Generator for each")

    def warm_up(self) -> None:
        """Run the graph once, so that first-time costs (pages, thread pools, allocations) are paid."""
        self._generations += 1
        self.model.rewind()
        self.model.forward([0])
        self.model.rewind()

    def _check_prompt(self, ids: Sequence[int]) -> None:
        if not ids:
            raise Llama3Error("the prompt has no tokens; give at least one")
        if min(ids) < 0 or max(ids) >= self.model.vocab_size:
            raise Llama3Error(f"the prompt has token ids outside of 0 .. {self.model.vocab_size - 1}")
        if len(ids) > self.model.max_length:
            raise Llama3Error(
                f"the prompt has {len(ids)} tokens, more than max-length {self.model.max_length} "
                f"(the model's context is {self.model.context_length}): shorten it or raise --max-length"
            )
