"""Text is composed as Hugging Face's tokenizers compose it, however many marks it has."""

import random
import time
import unicodedata

from llama3_runtime.text.normalization import nfc
from tokenizers import normalizers

# Hugging Face's tables are Unicode 9's: a newer mark has no class there.
MARKS = [
    character
    for character in map(chr, range(0x110000))
    if unicodedata.category(character).startswith("M") and unicodedata.ucd_3_2_0.category(character) != "Cn"
]


def test_runs_of_marks_are_composed_as_hugging_face_does() -> None:
    oracle = normalizers.NFC()
    rng = random.Random(4)
    for length in [1, 2, 3, 5, 254, 255, 256, 257, 300, 1000] * 50:
        letters = "".join(rng.choices(["", "a", "\u00e9", "\u1e09", "\uac00", "\u1100\u1161", "\u0628", " ", "x"], k=3))
        text = letters + "".join(rng.choices(MARKS, k=length)) + rng.choice(["", "e\u0301", "\u0958"])
        assert nfc(text) == oracle.normalize_str(text), ascii(text)


def test_a_megabyte_of_marks_takes_linear_time() -> None:
    """Python alone takes half an hour for these."""
    for marks in ("\u0315\u0316", "\u0301\u0316", "\u0344\u0316"):
        text = "e" + marks * 250_000
        started = time.process_time()
        found = nfc(text)
        assert time.process_time() - started < 20  # a second or less
        assert found == normalizers.NFC().normalize_str(text)
