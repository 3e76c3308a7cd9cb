"""Text to token ids and back, as the model's own file says.

Special tokens are separate from text: text never becomes one, whatever it looks like, unless the caller asks for that.
User-defined tokens stand for text and are always recognized, before any other step: of those that begin first, the
longest (as in llama.cpp and Hugging Face's tokenizers).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import regex
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile
from llama3_models.tokenizer.files import read_vocabulary
from llama3_models.tokenizer.vocabulary import FOUND_BY_TEXT, ByteLevelBPE, TokenType, Vocabulary

from llama3_runtime.text.byte_level_bpe import ByteLevelEncoder
from llama3_runtime.text.found_tokens import LONGEST, FoundTokens
from llama3_runtime.text.left_out import LeftOut
from llama3_runtime.text.sentencepiece_bpe import SentencePieceEncoder

logger = logging.getLogger(__name__)

# \w and \s as in Hugging Face's tokenizers; Python's differ.
_WORD: Final = regex.compile(r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]")
_SPACE: Final = regex.compile(r"\p{White_Space}")

# Models pad their rows to a round number (Qwen2.5 0.5B by 271 to 151,936, DeepSeek by 2,385 to 102,400). A tokenizer
# with fewer tokens than this fraction of the rows is probably another model's.
_USUAL_FRACTION: Final = 0.95


class Tokenizer:
    """A model's tokenizer.

    Attributes:
        vocabulary: The vocabulary that it was built from.
    """

    def __init__(self, vocabulary: Vocabulary, *, quiet: bool = False) -> None:
        """Prepare to encode with `vocabulary`; if `quiet`, log nothing about it or about texts.

        Raises:
            Llama3Error: The underlying libraries cannot follow its rules.
        """
        _refuse_long_tokens(vocabulary)
        for warning in () if quiet else vocabulary.warnings:
            logger.warning("%s: %s", vocabulary.source.name, warning)
        self.vocabulary: Final = vocabulary
        self._encoder: ByteLevelEncoder | SentencePieceEncoder
        left_out = LeftOut(vocabulary.source, quiet=quiet)
        if isinstance(vocabulary.model, ByteLevelBPE):
            self._encoder = ByteLevelEncoder(vocabulary, vocabulary.model, left_out)
            self._adds_space = False
        else:
            self._encoder = SentencePieceEncoder(vocabulary, vocabulary.model, left_out)
            self._adds_space = vocabulary.model.add_space_prefix

    @classmethod
    def from_path(cls, path: Path | str, *, pre_tokenizer: str | None = None) -> Tokenizer:
        """Read a tokenizer from an export folder, a GGUF, a tokenizer.json or a tokenizer.model.

        Args:
            path: The file or folder.
            pre_tokenizer: The name of a pre-tokenizer to use instead of the file's own (docs/pre-tokenizers.md).

        Raises:
            UsageError: `pre_tokenizer` is an unknown name, or the tokenizer does not use a pre-tokenizer.
            Llama3Error: There is no tokenizer, or it is of an unsupported kind.
        """
        return cls(read_vocabulary(Path(path), pre_tokenizer))

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> Tokenizer:
        """Read the tokenizer of an open model.

        Raises:
            Llama3Error: There is no tokenizer, or it is of an unsupported kind.
        """
        return cls(Vocabulary.from_gguf(file))

    @property
    def vocab_size(self) -> int:
        """The number of tokens."""
        return len(self.vocabulary.tokens)

    @cached_property
    def has_token(self) -> npt.NDArray[np.bool_]:
        """Whether each id has a token that a model may choose, [vocab_size]; unused ids have none.

        End tokens count whatever their type. If every token is unused, all count.
        """
        has_text = np.fromiter(map(bool, self.vocabulary.tokens), np.bool_, self.vocab_size)
        found = has_text & (np.array(self.vocabulary.types) != TokenType.UNUSED)
        found[list(self.eog_ids)] = True
        return found if found.any() else np.ones_like(found)

    def check_rows(self, num_rows: int, model: Path) -> None:
        """Check that a model has a row for each token, and warn if it has many more.

        Args:
            num_rows: The rows of the model's embedding, which is also the number of its logits.
            model: The path of the model, for messages.

        Raises:
            Llama3Error: Some tokens have no row.
        """
        num_tokens = int(np.flatnonzero(self.has_token)[-1]) + 1
        if num_tokens > num_rows:
            raise Llama3Error(
                f"{self.vocabulary.source}: this tokenizer has {num_tokens:,} tokens, but the model {model} has only "
                f"{num_rows:,} rows for tokens; use the model's own tokenizer"
            )
        if self.vocab_size < _USUAL_FRACTION * num_rows:
            logger.warning(
                "%s: this tokenizer has only %s tokens, but the model %s has %s rows for tokens; is it the right one?",
                *(self.vocabulary.source, f"{self.vocab_size:,}", model, f"{num_rows:,}"),
            )

    @property
    def bos_id(self) -> int | None:
        """The beginning-of-sequence token, if there is one."""
        return self.vocabulary.bos_id

    @property
    def eog_ids(self) -> frozenset[int]:
        """Every token that ends generation."""
        return self.vocabulary.eog_ids

    @property
    def adds_bos(self) -> bool:
        """Whether a prompt begins with the beginning-of-sequence token unless `encode` is told otherwise."""
        return self.vocabulary.adds_bos

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that turns messages into a prompt, if the model has one."""
        return self.vocabulary.chat_template

    def encode(self, text: str, *, bos: bool | None = None, special: bool = False) -> list[int]:
        """Encode a text.

        Args:
            text: Any string; lone surrogates, which are not characters, count as U+FFFD.
            bos: Whether the beginning-of-sequence token comes first; None follows the model's file. A text that already
                begins with that token (with `special`) does not get a second one.
            special: Whether the texts of special tokens, such as <|eot_id|>, become these tokens.

        Raises:
            Llama3Error: `bos` is true and the vocabulary has no such token.
        """
        # Strings from a JSON file or the command line may contain surrogates. Python's codecs join pairs and replace
        # lone ones.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids: list[int] = []
        after_special = True
        for fragment in self._split(text, special=special):
            if isinstance(fragment, int):
                ids.append(fragment)
                after_special = True
            else:
                ids += self._encoder.encode(f" {fragment}" if self._adds_space and after_special else fragment)
                after_special = False
        if (self.adds_bos if bos is None else bos) and not (special and ids[:1] == [self.bos_id]):
            if self.bos_id is None:
                raise Llama3Error(f"{self.vocabulary.source}: has no beginning-of-sequence token; use bos=False")
            ids.insert(0, self.bos_id)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of some tokens; special ones have none, and bytes that are not UTF-8 become U+FFFD.

        Raises:
            Llama3Error: An id is not in the vocabulary.
        """
        text = b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")
        return text.removeprefix(" ") if self._adds_space else text

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token adds to a text: not always whole characters, and none for a special token.

        Raises:
            Llama3Error: The id is not in the vocabulary.
        """
        if not 0 <= token_id < len(self._token_bytes):
            raise Llama3Error(
                f"{self.vocabulary.source}: has no token {token_id}, only {self.vocab_size} tokens; "
                "use the model's own tokenizer"
            )
        return self._token_bytes[token_id]

    @cached_property
    def _token_bytes(self) -> list[bytes]:
        return self.vocabulary.token_bytes()

    def _split(self, text: str, *, special: bool) -> Iterator[str | int]:
        """Yield the ids of the tokens recognized in a text, and the text between them, if not empty."""
        tokens = self._found_if_asked if special else self._found_in_any_text
        start = 0
        for begin, token in tokens.find(text):
            end = begin + len(token)
            surroundings = self.vocabulary.surroundings.get(token)
            if surroundings is not None:
                if surroundings.single_word and (
                    _WORD.match(text[begin - 1 : begin]) or _WORD.match(text[end : end + 1])
                ):
                    continue
                while surroundings.lstrip and begin > start and _SPACE.match(text[begin - 1]):
                    begin -= 1
                while surroundings.rstrip and end < len(text) and _SPACE.match(text[end]):
                    end += 1
            if begin > start:
                yield text[start:begin]
            yield tokens.ids[token]
            start = end
        if start < len(text):
            yield text[start:]

    @cached_property
    def _found_in_any_text(self) -> FoundTokens:
        return FoundTokens(self.vocabulary.ids_by_text(TokenType.USER_DEFINED))

    @cached_property
    def _found_if_asked(self) -> FoundTokens:
        return FoundTokens(self.vocabulary.ids_by_text(*FOUND_BY_TEXT))


def _refuse_long_tokens(vocabulary: Vocabulary) -> None:
    """Check that no token recognized in text is longer than `LONGEST`."""
    for token_id, (token, type_) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        if len(token) > LONGEST and type_ in FOUND_BY_TEXT:
            raise Llama3Error(
                f"{vocabulary.source}: token {token_id} has {len(token):,} characters, but a token recognized in text "
                f"has at most {LONGEST:,}; pass a tokenizer as --tokenizer-path"
            )
