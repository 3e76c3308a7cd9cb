"""One text as it is generated: its tokens so far, how the next one is chosen, and when it ends.

It does not run the model. The caller does, passes in the logits that follow `waiting`, and gets a piece of text back.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence as AnySequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from llama3_runtime.sampling.sampler import Sampler
from llama3_runtime.text.stream import TextStream

if TYPE_CHECKING:
    from llama3_runtime.sampling.params import SamplingParams
    from llama3_runtime.text.tokenizer import Tokenizer

Ids: TypeAlias = "AnySequence[int] | npt.NDArray[np.integer[Any]]"

FinishReason: TypeAlias = Literal["eos", "stop", "length", "interrupt"]
"""Why a text ended: an end-of-generation token, a stop text, the length (`max_new_tokens`, or a full KV cache), or the
caller."""


@dataclass(frozen=True)
class Piece:
    """The text that one token added; `str` returns only the text.

    Attributes:
        text: Whole characters, without a stop text; empty while the bytes may still become a character or a stop text.
        ids: The token; empty if the text ended without one.
        finish_reason: Why the text ended, on the last piece; None on the others.
        stop: The stop text that ended it, on the last piece; otherwise None.
    """

    text: str
    ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    stop: str | None = None

    def __str__(self) -> str:
        return self.text


class Sequence:
    """The state of one text.

    Attributes:
        prompt_size: Number of tokens in the prompt.
        ids: The prompt's tokens and the generated ones.
        waiting: Tokens that the model must evaluate before the next one can be chosen.
        finish_reason: Why the text ended; None before that.
        stop: The stop text that ended it, if one did.
        interrupted: Whether the caller asked for its end. The code that runs the model then finishes it.
    """

    def __init__(self, prompt: Ids, params: SamplingParams, tokenizer: Tokenizer, max_length: int) -> None:
        self.ids = [operator.index(token) for token in prompt]
        self.prompt_size = len(self.ids)
        self.waiting = list(self.ids)
        self.finish_reason: FinishReason | None = None
        self.stop: str | None = None
        self.interrupted = False
        room = max_length - self.prompt_size
        self._left = room if params.max_new_tokens < 0 else min(params.max_new_tokens, room)
        self._sampler = Sampler(params, tokenizer.has_token)
        self._end_ids = frozenset() if params.ignore_eos else tokenizer.eog_ids
        self._text = TextStream(params.stop)
        self._token_bytes = tokenizer.token_bytes

    @property
    def is_full(self) -> bool:
        """Whether another token would be too many."""
        return self._left <= 0

    def accept(self, logits: npt.NDArray[np.float32]) -> Piece:
        """Choose the next token.

        Args:
            logits: [vocab_size], after the last of the `waiting` tokens.

        Raises:
            Llama3Error: a logit is NaN or infinite.
        """
        token = self._sampler.sample(logits, self.ids)
        if token in self._end_ids:
            return self.finish("eos")
        text = self._text.push(self._token_bytes(token))
        self.ids.append(token)
        self.waiting = [token]
        self._left -= 1
        if self._text.matched is not None:
            return self.finish("stop", text, (token,))
        if self.is_full:
            return self.finish("length", text, (token,))
        return Piece(text, (token,))

    def finish(self, reason: FinishReason, text: str = "", ids: tuple[int, ...] = ()) -> Piece:
        """End the text; return the last piece, `text` and the text that was held back."""
        text += self._text.finish()
        # The text held back may complete a stop text, if its last bytes turn out not to be a character.
        self.stop = self._text.matched
        self.finish_reason = "stop" if self.stop is not None else reason
        return Piece(text, ids, self.finish_reason, self.stop)
