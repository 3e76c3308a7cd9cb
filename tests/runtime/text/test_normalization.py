"""Text is composed as in Hugging Face's tokenizers, however many marks it has."""

import random
import time
import unicodedata

from llama3_runtime.text.normalization import nfc
from tokenizers import normalizers

# Hugging Face uses the tables of Unicode 9, where newer marks have no class.
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
    """Python alone needs half an hour for these."""
    for marks in ("\u0315\u0316", "\u0301\u0316", "\u0344\u0316"):
        text = "e" + marks * 250_000
        started = time.process_time()
        found = nfc(text)
        assert time.process_time() - started < 20  # usually at most 1 second
        assert found == normalizers.NFC().normalize_str(text)
