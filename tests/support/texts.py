"""Texts for comparing tokenizers: mixed, nasty, and the same in every run."""

import random
import unicodedata
from collections.abc import Callable

_SENTENCES = """
I believe the meaning of life is to live it, don't you think? We've seen that she'll say it's what they'd do;
O'Brien'S DON'T WE'LL I'M naïve façade Straße œuvre ſharp ſtop 'ſ 'K rock'n'roll tokenization antidisestablishment
Привет мир Ελληνικά עברית العربية हिन्दी বাংলা ไทย ខ្មែរ မြန်မာ 日本語 中文 한국어 ελλάδα ΔΕΛΤΑ ǅ ǈ ʰ ª
"""
_CODE = (
    "def f(x):\n    return x + 1\n\n",
    'for (int i = 0; i < 10; ++i) { printf("%d\\n", i); }\n',
    "SELECT * FROM t WHERE a>=1 AND b<>'x';\r\n",
    "\tif err != nil {\n\t\treturn nil, err\n\t}\n",
    '{"key": [1, 2.5e-3, null, true], "nested": {"a": "\\u00e9"}}',
    "https://example.com/a/b?c=d&e=%20f#g",
    "#include <vector>\nstd::vector<std::unique_ptr<T>> v;// ***\n",
    "x=y//z\n/*/ **/ /// ---- ==== ____ ~~~~\n",
)
_LOOK_ALIKES = (
    "<|begin_of_text|>", "<|eot_id|>", "<|im_start|>user\n", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<unk>",
    "<|", "|>", "<|eot_id|", "<|reserved_special_token_0|>", "[INST]", "<0x0A>", "▁", "Ġ", "Ċ", "<|im_end|><|im_end|>",
)  # fmt: skip
_DIGITS = "0123456789٠١٢٣४५६๑๒๓０１２²³¹½¼Ⅷⅳ①⑳〇"
_SPACES = (
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    "\t",
    "\u00a0",
    "\u2003",
    "\u3000",
    "\u2028",
    "\x85",
    "\x0b",
    "\x0c",
)
_EMOJI = ("👍", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "☕️", "😀😀😀", "👩🏽‍💻", "❤️", "🫠", "𝕳𝖊𝖑𝖑𝖔", "𓀀")
_MARKS = ("e\u0301", "a\u0308\u0323", "Z\u0351\u036b\u0343", "\u200d", "\u200b", "\ufeff", "\u202e", "i\u0307", "क्‍ष")


def mixed_texts(count: int = 10_000, seed: int = 20_240_418) -> list[str]:
    """Return `count` texts of up to a few hundred characters, with all the Unicode that tokenizers disagree on."""
    rng = random.Random(seed)
    words = _SENTENCES.split()
    makers: list[Callable[[random.Random], str]] = [
        lambda r: r.choice(words),
        lambda r: " " + r.choice(words),
        lambda r: r.choice(_CODE),
        lambda r: r.choice(_LOOK_ALIKES),
        lambda r: "".join(r.choices(_DIGITS, k=r.randint(1, 9))),
        lambda r: str(r.randint(0, 10**9)),
        lambda r: r.choice(_SPACES) * r.randint(1, 9),
        lambda r: "".join(r.choices(_SPACES, k=r.randint(1, 6))),
        lambda r: r.choice(_EMOJI),
        lambda r: r.choice(_MARKS),
        lambda r: "".join(chr(r.randrange(0x20)) for _ in range(r.randint(1, 4))),
        lambda r: "".join(chr(r.randrange(0x4E00, 0x9FFF)) for _ in range(r.randint(1, 12))),
        lambda r: "".join(chr(r.randrange(0x3041, 0x30FF)) for _ in range(r.randint(1, 8))),
        lambda r: "".join(_character(r) for _ in range(r.randint(1, 6))),
        lambda r: "".join(r.choices("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", k=r.randint(1, 8))),
        lambda r: r.choice("aA'’ .\n-") * r.randint(1, 200),
        lambda r: "'" + r.choice(["s", "S", "t", "RE", "Ve", "m", "LL", "d", "x", "ſ", "\u212a"]),
    ]
    texts = ["", " ", "\n", "\x00", "a", "'", "<|"]
    while len(texts) < count:
        texts.append("".join(rng.choice(makers)(rng) for _ in range(rng.randint(1, 12))))
    return texts[:count]


def _character(rng: random.Random) -> str:
    """Draw a character that Python's Unicode tables have; libraries differ on whether newer ones are letters."""
    while True:
        character = chr(rng.randrange(rng.choice((0x800, 0x10000, 0x20000, 0x110000))))
        if unicodedata.category(character) not in ("Cn", "Cs"):
            return character
