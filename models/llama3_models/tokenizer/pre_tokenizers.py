r"""What a byte-level tokenizer does with text before it merges bytes: some normalize it, and all cut it into pieces.

A GGUF does not carry its regular expression, only a name (`tokenizer.ggml.pre`); llama.cpp's `llama-vocab.cpp` is where
the names come from and what each means. Each expression here matches every character of any text, so the pieces are
just its matches. Names of encoders, and those that take several expressions in a row (DeepSeek's, Falcon's), are left
out: an unknown name is an error, since a wrong guess would give a model slightly wrong prompts without a word.

Nor does a GGUF say whether text is normalized, and llama.cpp never does it. It is done here for the names whose models
publish a tokenizer.json that does it: Qwen's, Command R's, and OLMo's and MPT's, which are GPT-NeoX's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from llama3_models.errors import Llama3Error
from llama3_models.gguf.part import quoted

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

# A number is cut off first, three digits at a time, so that white space before it stays whole, as above.
_NUMBERS_THEN_LLAMA3 = _LLAMA3.replace(r"|\s+(?!\S)", r"|\s++(?=\p{N})|\s+(?!\S)")

_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

_SEED_CODER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class PreTokenizer:
    """A way to prepare text and to cut it into pieces.

    Attributes:
        pattern: The expression whose successive matches are the pieces, in the dialect that the `regex` module,
            Rust's fancy-regex and Oniguruma share.
        hugging_face: The same as the `pre_tokenizer` of a `tokenizer.json`.
        as_published: The form of it in which models are published, where that is another one.
        nfc: Whether text is brought to Unicode's normalization form C first. Tokens that are found by their text are
            looked for before.
        ignore_merges: Whether a piece that is itself a token is taken as it is, even where no sequence of merges
            leads to it (`ignore_merges` of a `tokenizer.json`).
        adds_bos: Whether models of this kind want a beginning-of-sequence token when their files do not say.
    """

    pattern: str
    hugging_face: Mapping[str, Any]
    ignore_merges: bool
    adds_bos: bool
    as_published: Mapping[str, Any] | None = None
    nfc: bool = False


def _splits(*patterns: str) -> dict[str, Any]:
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in patterns
    ]
    return {"type": "Sequence", "pretokenizers": [*splits, _byte_level(use_regex=False)]}


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


_DIGITS = {"type": "Digits", "individual_digits": True}

LLAMA3: Final = PreTokenizer(_LLAMA3, _splits(_LLAMA3), ignore_merges=True, adds_bos=True)
GPT4: Final = replace(LLAMA3, ignore_merges=False, adds_bos=False)
NUMBERS_THEN_LLAMA3: Final = PreTokenizer(
    _NUMBERS_THEN_LLAMA3,
    _splits(r"\p{N}{1,3}", _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}+")),
    ignore_merges=True,
    adds_bos=False,
)
TEKKEN: Final = PreTokenizer(_TEKKEN, _splits(_TEKKEN), ignore_merges=True, adds_bos=True)
GPT4O: Final = PreTokenizer(_GPT4O, _splits(_GPT4O), ignore_merges=False, adds_bos=False)
QWEN2: Final = PreTokenizer(_QWEN2, _splits(_QWEN2), ignore_merges=False, adds_bos=False, nfc=True)
SEED_CODER: Final = PreTokenizer(_SEED_CODER, _splits(_SEED_CODER), ignore_merges=False, adds_bos=False)
GPT2: Final = PreTokenizer(_GPT2, _byte_level(use_regex=True), ignore_merges=False, adds_bos=False)
DIGITS_THEN_GPT2: Final = PreTokenizer(
    _DIGITS_THEN_GPT2,
    # onnxruntime-genai's tokenizer cuts by these two expressions, spelled like this; of the published form it sees the
    # second step only.
    _splits(r"\p{N}", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"),
    ignore_merges=False,
    adds_bos=False,
    as_published={"type": "Sequence", "pretokenizers": [_DIGITS, _byte_level(use_regex=True)]},
)

_BY_KIND: Final = (
    (LLAMA3, "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2"),
    (GPT4, "dbrx smaug-bpe glm4 chatglm-bpe"),
    (NUMBERS_THEN_LLAMA3, "minicpm5"),
    (TEKKEN, "tekken"),
    (GPT4O, "gpt-4o llama4 kanana2 talkie minimax-m2"),
    (QWEN2, "qwen2"),
    (replace(QWEN2, nfc=False), "deepseek-r1-qwen kormo stablelm2 megrez hunyuan solar-open grok-2"),
    (SEED_CODER, "seed-coder"),
    (GPT2, "gpt-2 phi-2 jais trillion gigachat a.x-4.0 mellum exaone4 granite-docling"),
    (replace(GPT2, nfc=True), "mpt olmo"),
    (DIGITS_THEN_GPT2, "smollm starcoder refact codeshell exaone minerva-7b mellum2"),
    (replace(DIGITS_THEN_GPT2, nfc=True), "command-r"),
)

PRE_TOKENIZERS: Final[Mapping[str, PreTokenizer]] = {
    name: pre_tokenizer for pre_tokenizer, names in _BY_KIND for name in names.split()
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
        raise Llama3Error(
            f"{source}: the pre-tokenizer {quoted(name)} (tokenizer.ggml.pre) is not one that is known; "
            "give the model's tokenizer.json with --tokenizer-path"
        ) from None


def pre_tokenizer_of(hugging_face: object, *, ignore_merges: bool, nfc: bool, source: object) -> PreTokenizer:
    """The pre-tokenizer that a `tokenizer.json` describes.

    Args:
        hugging_face: The file's `pre_tokenizer`.
        ignore_merges: The file's `model.ignore_merges`.
        nfc: Whether its `normalizer` is NFC.
        source: The file, for the message.

    Raises:
        Llama3Error: It cuts unlike every pre-tokenizer of the table.
    """
    for known, _ in _BY_KIND:
        if any(_cuts_alike(hugging_face, form) for form in (known.hugging_face, known.as_published) if form):
            return replace(known, ignore_merges=ignore_merges, nfc=nfc)
    raise Llama3Error(
        f"{source}: its pre_tokenizer is not one that is known (such as those of Llama 3, Tekken, GPT-2 and SmolLM); "
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
