r"""How a byte-level tokenizer cuts text into pieces before it merges bytes.

A GGUF does not carry its regular expression, only a name (`tokenizer.ggml.pre`); llama.cpp's `llama-vocab.cpp` is where
the names come from. Each expression here matches every character of any text, so the pieces are just its matches. Names
whose tokenizers also normalize text, or whose expression could not be checked against the original, are left out: an
unknown name is an error, since a wrong guess would give a model slightly wrong prompts without a word.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from llama3_models.errors import Llama3Error
from llama3_models.gguf_part import quoted

_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# Two steps in Hugging Face's tokenizers: each digit is split off, then GPT-2's expression cuts what lies between. White
# space before a digit ends what the second step sees, so it stays whole, where it would else have left its last
# character to the next word. The quantifier is possessive because a shorter run is never followed by a digit, and
# giving back a long run one character at a time exhausts fancy-regex.
_DIGITS_THEN_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s++(?=\p{N})|\s+(?!\S)|\s+"

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class PreTokenizer:
    """A way to cut text into pieces.

    Attributes:
        pattern: The expression whose successive matches are the pieces, in the dialect that the `regex` module,
            Rust's fancy-regex and Oniguruma share.
        hugging_face: The same as the `pre_tokenizer` of a `tokenizer.json`.
        whole_pieces: Whether a piece that is itself a token is taken as it is, even where no sequence of merges
            leads to it (`ignore_merges` of a `tokenizer.json`).
        adds_bos: Whether models of this kind want a beginning-of-sequence token when their files do not say.
    """

    pattern: str
    hugging_face: Mapping[str, Any]
    whole_pieces: bool
    adds_bos: bool


def _split(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _byte_level(use_regex=False)]}


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


_DIGITS = {"type": "Digits", "individual_digits": True}

LLAMA3: Final = PreTokenizer(_LLAMA3, _split(_LLAMA3), whole_pieces=True, adds_bos=True)
TEKKEN: Final = PreTokenizer(_TEKKEN, _split(_TEKKEN), whole_pieces=True, adds_bos=True)
GPT2: Final = PreTokenizer(_GPT2, _byte_level(use_regex=True), whole_pieces=False, adds_bos=False)
DIGITS_THEN_GPT2: Final = PreTokenizer(
    _DIGITS_THEN_GPT2,
    {"type": "Sequence", "pretokenizers": [_DIGITS, _byte_level(use_regex=True)]},
    whole_pieces=False,
    adds_bos=False,
)

PRE_TOKENIZERS: Final[Mapping[str, PreTokenizer]] = {
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "smaug-bpe": LLAMA3,
    "tekken": TEKKEN,
    "gpt-2": GPT2,
    "phi-2": GPT2,
    "smollm": DIGITS_THEN_GPT2,
    "starcoder": DIGITS_THEN_GPT2,
    "refact": DIGITS_THEN_GPT2,
    "command-r": DIGITS_THEN_GPT2,
    "codeshell": DIGITS_THEN_GPT2,
}


def pre_tokenizer_named(name: str, source: object) -> PreTokenizer:
    """The pre-tokenizer that GGUF files call `name`.

    Args:
        name: The value of `tokenizer.ggml.pre`.
        source: Where the name was read, for the message.

    Raises:
        Llama3Error: The name is not in the table.
    """
    try:
        return PRE_TOKENIZERS[name]
    except KeyError:
        known = ", ".join(PRE_TOKENIZERS)
        raise Llama3Error(
            f"{source}: the pre-tokenizer {quoted(name)} (tokenizer.ggml.pre) is not one that is known ({known}); "
            "give the model's tokenizer.json with --tokenizer-path"
        ) from None


def pre_tokenizer_of(hugging_face: object, *, whole_pieces: bool, source: object) -> PreTokenizer:
    """The pre-tokenizer that a `tokenizer.json` describes.

    Args:
        hugging_face: The file's `pre_tokenizer`.
        whole_pieces: The file's `model.ignore_merges`.
        source: The file, for the message.

    Raises:
        Llama3Error: It cuts unlike every pre-tokenizer of the table.
    """
    for known in (LLAMA3, TEKKEN, GPT2, DIGITS_THEN_GPT2):
        if _cuts_alike(hugging_face, known.hugging_face):
            return replace(known, whole_pieces=whole_pieces)
    raise Llama3Error(
        f"{source}: its pre_tokenizer is not one that is known (those of Llama 3, Mistral's Tekken, GPT-2 and SmolLM); "
        "give the GGUF of the model as --tokenizer-path instead"
    )


def _cuts_alike(described: object, known: object) -> bool:
    """Whether two pre-tokenizers of a `tokenizer.json` cut alike, whatever they say of offsets."""
    if isinstance(described, Mapping) and isinstance(known, Mapping):
        defaults = {"use_regex": True, "invert": False}
        return all(
            _cuts_alike(described.get(key, defaults.get(key)), value)
            for key, value in known.items()
            if key != "trim_offsets"
        )
    if isinstance(described, list) and isinstance(known, list):
        return len(described) == len(known) and all(map(_cuts_alike, described, known))
    return described == known
