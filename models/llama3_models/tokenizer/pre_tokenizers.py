r"""The steps of a byte-level tokenizer before it merges bytes: some normalize text, and all split it into pieces.

A GGUF does not contain the regular expressions, only a name for them (`tokenizer.ggml.pre`). The names come from
llama.cpp's `llama-vocab.cpp`. The expressions come from the models' own tokenizer.json files, which llama.cpp's regex
library cannot always follow. An unknown name is an error, because a wrong guess would silently make prompts slightly
wrong. The table omits encoders, vocabularies that do not spell bytes (gemma4, sarvam-moe, whitespace), kimi-k2, which
has no merges, and afmoe, whose tokenizer.json was not available.

Nor does a GGUF say whether text is normalized, and llama.cpp never normalizes it. Here it is normalized for the names
whose models publish a tokenizer.json that does so: Qwen's, Command R's, and OLMo's and MPT's, which are GPT-NeoX's.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from llama3_models.errors import Llama3Error, UsageError

_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# The same, in its usual spelling.
_GPT2_SPELLED = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# Hugging Face's tokenizers need two steps: the first isolates each digit, the second splits the rest with GPT-2's
# expression. White space before a digit stays whole, because the second step sees it at the end of a text; elsewhere
# its last character goes to the next word. The quantifier is possessive because a shorter run is never followed by a
# digit, and backtracking through a long run exhausts fancy-regex.
_DIGITS_THEN_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s++(?=\p{N})|\s+(?!\S)|\s+"

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Numbers are isolated first, three digits at a time, so white space before them stays whole, as above.
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


_QWEN3_5 = _QWEN2.replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(r" ?[^\s\p{L}\p{N}]", r" ?[^\s\p{L}\p{M}\p{N}]")

# Turkish writes suffixes after an apostrophe. Qwen's expression would mistake them for English ones.
_UFAKZEKA = _QWEN2.removeprefix("(?i:'s|'t|'re|'ve|'m|'ll|'d)|")

# Published with possessive quantifiers (`?+`, `++`), which not all regex libraries have. They do not change any match,
# because what follows one never begins with a character that it could give back.
_BAILINGMOE = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"

_EXAONE_MOE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)

_JAIS2 = _LLAMA3.removesuffix(r"|\s+(?!\S)|\s+") + (
    r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)"
    r"|\s{1,2}(?!\S)|\s{1}"
)

# The text between two matches is also a piece: Bloom's punctuation and white space.
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_BLOOM_AS_PUBLISHED = _BLOOM.replace("|.", "|[.").replace(")]", "])]")

_PUNCTUATION = r"[\p{P}$+<=>^~|`]+"

_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_CJK_AND_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"

# Unicode's cased letters, as JavaScript libraries list them.
_DEEPSEEK_WORDS = (
    "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d"
    "\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
    "\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a"
    "\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]+"
)
_DEEPSEEK_PUNCTUATION = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"

_DEEPSEEK_V3 = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)
_SPARK = _DEEPSEEK_V3.replace("+[\r\n]*|\\s*[\r\n]+|", "+|[\r\n]|")

_YOUTU_SCRIPTS = (
    "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    f"|[\u3105-\u312f]+|{_CJK_AND_KANA}"
)

# Splits a number into groups of three digits, from its end. Published without the possessive quantifier, which changes
# no match; without it, a number of 16,000 digits takes a minute.
_GROUPS_OF_SUPERBPE = r"(?=(?:\d{3})++(?!\d))"
# Published with `\b`, which differs between libraries. These are Oniguruma's word characters.
_GROUPS_OF_AYA = "\\d{1,3}(?=(?:\\d{3})*+(?![\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\u00b2\u00b3\u00b9\u00bc-\u00be]))"

# Line ends belong to the text after them.
_LAGUNA_LINES = r"(?:\r?\n)+(?:[^\r\n]|\r(?!\n))*"


@dataclass(frozen=True)
class PreTokenizer:
    """A way to prepare text and split it into pieces.

    Expressions use the dialect that the `regex` module, Rust's fancy-regex and Oniguruma share.

    Attributes:
        steps: Expressions that split one after the other. Each is searched for in every piece that the previous steps
            made. Its matches become pieces, and so does the text between them.
        pattern: One expression whose successive matches are these pieces, if there is one; tiktoken needs it.
        as_split: The equivalent `pre_tokenizer` of a tokenizer.json, if it is not one `Split` per step.
        as_published: The form that models are published with, if it is different.
        nfc: Whether text is first brought to Unicode's normalization form C. Tokens that are recognized by their text
            are looked for before that.
        ignore_merges: Whether a piece that is a token stays whole, even if no merges lead to it (`ignore_merges` of a
            tokenizer.json).
        adds_bos: Whether a prompt begins with the beginning-of-sequence token if the model's file does not say.
    """

    steps: tuple[str, ...]
    pattern: str | None = None
    as_split: Mapping[str, Any] | None = None
    as_published: Mapping[str, Any] | None = None
    nfc: bool = False
    ignore_merges: bool = False
    adds_bos: bool = False

    @property
    def hugging_face(self) -> Mapping[str, Any]:
        """The equivalent `pre_tokenizer` of a tokenizer.json."""
        return self.as_split or _sequence(*(_split(step) for step in self.steps), _byte_level(use_regex=False))


def _whole(expression: str, *, nfc: bool = False, ignore_merges: bool = False, adds_bos: bool = False) -> PreTokenizer:
    """Build a pre-tokenizer from one expression whose matches cover any text."""
    return PreTokenizer((expression,), expression, nfc=nfc, ignore_merges=ignore_merges, adds_bos=adds_bos)


def _sequence(*steps: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def _split(pattern: str, behavior: str = "Isolated") -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _digits(*, individual: bool) -> dict[str, Any]:
    return {"type": "Digits", "individual_digits": individual}


def _deepseek(*expressions: str) -> PreTokenizer:
    """Build a pre-tokenizer that isolates line ends first and digits last."""
    return PreTokenizer(
        ("[\r\n]", *expressions, r"\p{N}"),
        as_published=_sequence(
            _split("[\r\n]"),
            *(_split(expression) for expression in expressions),
            _digits(individual=True),
            _byte_level(use_regex=False),
        ),
    )


LLAMA3: Final = _whole(_LLAMA3, ignore_merges=True, adds_bos=True)
GPT4: Final = _whole(_LLAMA3)
NUMBERS_THEN_LLAMA3: Final = PreTokenizer(
    (r"\p{N}{1,3}", _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}+")), _NUMBERS_THEN_LLAMA3, ignore_merges=True
)
JAIS2: Final = _whole(_JAIS2)
TEKKEN: Final = _whole(_TEKKEN, ignore_merges=True, adds_bos=True)
GPT4O: Final = _whole(_GPT4O)
TINY_AYA: Final = PreTokenizer(
    (_GROUPS_OF_AYA, _GPT4O),
    as_split=_sequence(_split(r"\d{1,3}(?=(?:\d{3})*\b)"), _split(_GPT4O), _byte_level(use_regex=False)),
)
YOUTU: Final = PreTokenizer((_YOUTU_SCRIPTS, _GPT4O.replace(r"\p{N}{1,3}", r"\p{N}")), ignore_merges=True)
QWEN2: Final = _whole(_QWEN2, nfc=True)
QWEN3_5: Final = _whole(_QWEN3_5, nfc=True)
UFAKZEKA: Final = _whole(_UFAKZEKA)
LAGUNA: Final = PreTokenizer(
    (_LAGUNA_LINES, _QWEN2),
    as_published=_sequence(
        _split(r"(?:\r?\n)+(?!\r?\n)", "MergedWithNext"), _split(_QWEN2), _byte_level(use_regex=False)
    ),
)
SEED_CODER: Final = replace(
    _whole(_SEED_CODER),
    as_published=_sequence(_split(_SEED_CODER.replace(r"|\p{N}|", r"|\p{N}{1}|")), _byte_level(use_regex=False)),
)
BAILINGMOE: Final = replace(
    _whole(_BAILINGMOE),
    as_published=_sequence(
        _split(_BAILINGMOE.replace(r"?\p{L}+", r"?+\p{L}+").replace(r"]+[\r\n]*", r"]++[\r\n]*")),
        _byte_level(use_regex=False),
    ),
)
EXAONE_MOE: Final = _whole(_EXAONE_MOE)
GPT2: Final = PreTokenizer((_GPT2_SPELLED,), _GPT2, as_split=_byte_level(use_regex=True))
DIGITS_THEN_GPT2: Final = PreTokenizer(
    # onnxruntime-genai's tokenizer follows these two expressions, in this spelling. It ignores the first step of the
    # published form.
    (r"\p{N}", _GPT2_SPELLED),
    _DIGITS_THEN_GPT2,
    as_published=_sequence(_digits(individual=True), _byte_level(use_regex=True)),
)
CHAMELEON: Final = PreTokenizer(
    (
        "<sentinel:[0-9]+>",
        "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
        r"([\t\n]|    |  )",
        r"\p{N}",
        r"[\p{P}!-/:-@\[-`{-~]",
        _GPT2_SPELLED,
    ),
    adds_bos=True,
)
FALCON: Final = PreTokenizer(
    (_PUNCTUATION, _GPT2_SPELLED, "[0-9]+", "[0-9][0-9][0-9]"),
    # The published form looks for digits after bytes are spelled. There the letters of six bytes count as digits, so
    # characters are split. Falcon's vocabulary was made that way, so none of its tokens crosses such a split.
    as_published=_sequence(
        {"type": "Punctuation", "behavior": "Contiguous"},
        _byte_level(use_regex=True),
        _digits(individual=False),
        _split("[0-9][0-9][0-9]"),
    ),
)
# llama.cpp's rule for files that name no pre-tokenizer. No model's own tokenizer works like this.
DEFAULT: Final = PreTokenizer((_PUNCTUATION.replace("`", ""), _GPT2_SPELLED, r"\p{N}+", "[0-9][0-9][0-9]"))
BLOOM: Final = PreTokenizer(
    (_BLOOM,), as_published=_sequence(_split(_BLOOM_AS_PUBLISHED), _byte_level(use_regex=False))
)
VIKING: Final = PreTokenizer(
    (_BLOOM, r"\p{N}"),
    as_published=_sequence(_split(_BLOOM_AS_PUBLISHED), _digits(individual=True), _byte_level(use_regex=False)),
)
DEEPSEEK_LLM: Final = _deepseek(_DEEPSEEK_WORDS, _DEEPSEEK_PUNCTUATION, r"\s+$", _CJK)
DEEPSEEK_CODER: Final = _deepseek(r"\s?\p{L}+", r"\s?\p{P}+", _CJK)
DEEPSEEK_V3: Final = PreTokenizer((r"\p{N}{1,3}", _CJK_AND_KANA, _DEEPSEEK_V3))
SPARK: Final = PreTokenizer((r"\p{N}{1,3}", _CJK_AND_KANA, _SPARK, r"\p{N}"))
SUPERBPE: Final = PreTokenizer(
    (r"\p{N}+", _GROUPS_OF_SUPERBPE),
    as_split=_sequence(_split(r"\p{N}+"), _split(r"(?=(\d{3})+(?!\d))"), _byte_level(use_regex=False)),
)

_BY_KIND: Final = (
    (LLAMA3, "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2"),
    (GPT4, "dbrx smaug-bpe chatglm-bpe"),
    (replace(GPT4, ignore_merges=True), "glm4 glm5"),
    (NUMBERS_THEN_LLAMA3, "minicpm5"),
    (JAIS2, "jais-2"),
    (TEKKEN, "tekken"),
    (GPT4O, "gpt-4o llama4 kanana2 talkie minimax-m2"),
    (TINY_AYA, "tiny_aya cohere2moe"),
    (YOUTU, "youtu"),
    (QWEN2, "qwen2 f2llmv2"),
    (replace(QWEN2, nfc=False), "deepseek-r1-qwen kormo stablelm2 megrez hunyuan solar-open grok-2"),
    (QWEN3_5, "qwen35"),
    (UFAKZEKA, "ufakzeka"),
    (LAGUNA, "laguna"),
    (SEED_CODER, "seed-coder"),
    (BAILINGMOE, "bailingmoe bailingmoe2 llada-moe"),
    (EXAONE_MOE, "exaone-moe"),
    (GPT2, "gpt-2 phi-2 jais trillion gigachat a.x-4.0 mellum exaone4 granite-docling"),
    (replace(GPT2, nfc=True), "mpt olmo"),
    (DIGITS_THEN_GPT2, "smollm starcoder refact codeshell exaone minerva-7b mellum2"),
    (replace(DIGITS_THEN_GPT2, nfc=True), "command-r"),
    (CHAMELEON, "chameleon"),
    (FALCON, "falcon"),
    (DEFAULT, "default"),
    (BLOOM, "bloom gpt3-finnish poro-chat"),
    (VIKING, "viking"),
    (DEEPSEEK_LLM, "deepseek-llm"),
    (DEEPSEEK_CODER, "deepseek-coder"),
    (DEEPSEEK_V3, "deepseek-v3 hunyuan-dense joyai-llm hy_v4"),
    (SPARK, "spark2_5"),
    (SUPERBPE, "superbpe"),
)

PRE_TOKENIZERS: Final[Mapping[str, PreTokenizer]] = {
    name: pre_tokenizer for pre_tokenizer, names in _BY_KIND for name in names.split()
}


UNNAMED: Final = "default"
"""The name that llama.cpp assumes for a file without one."""


def pre_tokenizer_named(name: str, source: object) -> PreTokenizer:
    """Return the pre-tokenizer that GGUF files call `name`.

    Args:
        name: The value of `tokenizer.ggml.pre`.
        source: Where the name was read, for the message.

    Raises:
        Llama3Error: The name is unknown.
    """
    try:
        return PRE_TOKENIZERS[name]
    except KeyError:
        raise Llama3Error(
            f"{source}: unknown pre-tokenizer {name!r:.80} (tokenizer.ggml.pre); pass the model's tokenizer.json as "
            "--tokenizer-path, or the name of an equivalent pre-tokenizer as --pre-tokenizer"
        ) from None


def check_pre_tokenizer(name: str | None) -> None:
    """Check that a name is in the table, or None.

    Raises:
        UsageError: The name is unknown.
    """
    if name is None or name in PRE_TOKENIZERS:
        return
    near = difflib.get_close_matches(name.lower(), PRE_TOKENIZERS, n=4, cutoff=0.5)
    choices = " or ".join([", ".join(near[:-1]), *near[-1:]] if near[1:] else near)
    advice = f"did you mean {choices}?" if near else "docs/pre-tokenizers.md lists the names"
    raise UsageError(f"--pre-tokenizer: unknown name {name!r:.80}; {advice}")


def refuse_pre_tokenizer(name: str | None, source: object) -> None:
    """Check that no pre-tokenizer is asked for, because a SentencePiece vocabulary does not split text into pieces.

    Raises:
        UsageError: A pre-tokenizer is asked for.
    """
    if name is not None:
        raise UsageError(
            f"--pre-tokenizer: {source} has a SentencePiece vocabulary, which does not use one; omit the option"
        )


def pre_tokenizer_of(hugging_face: object, *, ignore_merges: bool, nfc: bool, source: object) -> PreTokenizer:
    """Return the pre-tokenizer that a tokenizer.json describes.

    Args:
        hugging_face: The file's `pre_tokenizer`.
        ignore_merges: The file's `model.ignore_merges`.
        nfc: Whether its `normalizer` is NFC.
        source: The file, for the message.

    Raises:
        Llama3Error: The table has no equivalent pre-tokenizer.
    """
    for known, _ in _BY_KIND:
        if any(_cuts_alike(hugging_face, form) for form in (known.hugging_face, known.as_published) if form):
            return replace(known, ignore_merges=ignore_merges, nfc=nfc)
    raise Llama3Error(
        f"{source}: unknown pre_tokenizer (known ones include those of Llama 3, Tekken, GPT-2 and SmolLM); "
        "pass the model's GGUF as --tokenizer-path, or the name of an equivalent pre-tokenizer as --pre-tokenizer"
    )


def _cuts_alike(described: object, known: object) -> bool:
    """Return whether two pre-tokenizers of a tokenizer.json split alike, ignoring offsets."""
    if isinstance(described, Mapping) and isinstance(known, Mapping):
        defaults = {"use_regex": True, "invert": False}
        return all(
            _cuts_alike(described.get(key, defaults.get(key)), value)
            for key, value in known.items()
            if key != "trim_offsets"
        )
    if isinstance(described, list) and isinstance(known, list):
        return len(described) == len(known) and all(map(_cuts_alike, described, known))
    if isinstance(described, str) and isinstance(known, str):
        return _spelled(described) == _spelled(known)
    return described == known


def _spelled(expression: str) -> str:
    """Return an expression with its line ends as escapes; some files have the characters."""
    return expression.replace("\r", r"\r").replace("\n", r"\n")
