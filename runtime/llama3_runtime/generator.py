"""The generation loop: a prompt through the model in chunks, then a token at a time through sampler and text stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from llama3_models.errors import Llama3Error

from llama3_runtime.model import DEFAULT_CHUNK_SIZE, Model
from llama3_runtime.sampling import Sampler, SamplingParams
from llama3_runtime.session import Provider
from llama3_runtime.text_stream import TextStream
from llama3_runtime.tokenizer import Tokenizer

FinishReason: TypeAlias = Literal["eos", "stop", "length"]


class Generator:
    """Generates text from an exported model.

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

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        provider: Provider = "cpu",
        threads: int | None = None,
        max_length: int | None = None,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        custom_ops_path: str | Path | None = None,
        weights_folder: str | Path | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> Generator:
        """Load an export folder, or the .onnx file in it.

        Args:
            path: The folder or the file.
            provider: `cpu`, `cuda`, or `auto` for CUDA where there is one.
            threads: For the work inside of an op; None for one a core.
            max_length: Positions that the KV cache holds, for prompt and generated tokens together; None for 512, or
                the context where that is shorter.
            chunk_size: Tokens of a prompt that go through the graph at once.
            custom_ops_path: A library of custom ops that the graph needs; our own for native ops needs no mention.
            weights_folder: Where the graph's weights lie, if not beside it.
            tokenizer: Another tokenizer than the export's.

        Raises:
            Llama3Error: there is no export there, or it cannot be loaded or not run there.
        """
        model = Model.from_folder(
            path,
            provider=provider,
            threads=threads,
            max_length=max_length,
            chunk_size=chunk_size,
            custom_ops_path=custom_ops_path,
            weights_folder=weights_folder,
        )
        return cls(model, tokenizer or Tokenizer.from_path(model.tokenizer_path))

    def stream(self, prompt: str, params: SamplingParams) -> Iterator[str]:
        """Generate from a text, with the BOS token before it where the model wants one.

        Yields:
            Pieces of text as they come, never a part of a character or of a stop text.

        Raises:
            Llama3Error: the prompt does not fit.
        """
        return self.stream_text(self.tokenizer.encode(prompt), params)

    def stream_text(self, ids: Sequence[int], params: SamplingParams) -> Iterator[str]:
        """`stream` from a prompt's ids."""
        text = TextStream(self.tokenizer.token_bytes, params.stop)
        for token in self.stream_ids(ids, params):
            if piece := text.push(token):
                yield piece
            if text.stopped:
                self.finish_reason = "stop"
                return
        if piece := text.finish():
            yield piece

    def stream_ids(self, ids: Sequence[int], params: SamplingParams) -> Iterator[int]:
        """Generate from a prompt's ids; stop texts play no part.

        Nothing runs before the first token is asked for, but a prompt that cannot be run is refused at once.

        Returns:
            Token ids as they come; the end-of-generation token itself only with `ignore_eos`.

        Raises:
            Llama3Error: the prompt has no token, one that the model does not know, or more than fit.
        """
        self._check_prompt(ids)
        self.finish_reason = None
        return self._generate(ids, params)

    def _generate(self, ids: Sequence[int], params: SamplingParams) -> Iterator[int]:
        model, sampler, tokens = self.model, Sampler(params), list(ids)
        room = model.max_length - len(ids)
        limit = room if params.max_new_tokens < 0 else min(params.max_new_tokens, room)
        model.rewind()
        logits = model.prefill(ids) if limit else None
        for step in range(limit):
            if step:
                logits = model.forward(tokens[-1:])[0]
            assert logits is not None
            token = sampler.sample(logits, tokens)
            if token in self.tokenizer.eog_ids and not params.ignore_eos:
                self.finish_reason = "eos"
                return
            tokens.append(token)
            yield token
        self.finish_reason = "length"

    def warm_up(self) -> None:
        """Run the graph once, so that first-time costs (pages, thread pools, allocations) are paid."""
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
