"""Tests that compare the fast search for splits of tokens with trying every place."""

import random
import time

import pytest
from llama3_models.tokenizer import splits as module
from llama3_models.tokenizer.splits import longest_prefixes, splits


@pytest.mark.parametrize("short", [0, 3, 256])
def test_every_place_is_found(short: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both methods find all splits, of tokens that are parts and of tokens that are not."""
    monkeypatch.setattr(module, "_SHORT", short)
    rng = random.Random(4)
    found = 0
    for _ in range(500):
        texts = ["".join(rng.choices("ab", k=rng.randint(1, 9))) for _ in range(30)]
        parts, tokens = set(texts[:20]), list(dict.fromkeys(texts[10:]))
        for token, middles in splits(tokens, parts):
            places = range(1, len(token))
            assert middles == [place for place in places if token[:place] in parts and token[place:] in parts]
            found += len(middles)
    assert found > 2000


def test_prefixes() -> None:
    texts = ["a", "ab", "abc", "abd", "b", "bcd", "c"]
    assert longest_prefixes(texts) == [-1, 0, 1, 1, -1, 4, -1]


def test_long_tokens_take_linear_time() -> None:
    """One token has 4 million characters; the others have as many together, and each begins and ends the next."""
    tokens = ["ab" * 2_000_000, *("a" * length for length in range(1, 2800))]
    started = time.process_time()
    count = sum(len(middles) for _, middles in splits(tokens, set(tokens)))
    assert count == 2799 * 2798 // 2
    assert time.process_time() - started < 30  # usually 3 seconds; trying every place takes an hour
