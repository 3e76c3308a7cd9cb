"""Tokens are recognized as by a regular expression that tries the longest first."""

import random
import re
import time
from collections.abc import Mapping

import pytest
from gguf import TokenType
from llama3_models.errors import Llama3Error
from llama3_runtime.text.found_tokens import LONGEST, FoundTokens
from llama3_runtime.text.tokenizer import Tokenizer

from tests.support.vocabularies import write_vocabulary_gguf


def by_expression(ids: Mapping[str, int], text: str) -> list[tuple[int, str]]:
    expression = "|".join(map(re.escape, sorted(ids, key=len, reverse=True)))
    return [(match.start(), match.group()) for match in re.finditer(expression, text)]


def test_the_longest_of_those_that_begin_first() -> None:
    rng = random.Random(7)
    for _ in range(2000):
        alphabet = rng.choice(["ab", "a]^-\\", "<|x>", "é日\n "])
        tokens = {"".join(rng.choices(alphabet, k=rng.randint(1, 6))) for _ in range(rng.randint(1, 12))}
        ids = {token: index for index, token in enumerate(tokens)}
        text = "".join(rng.choices(alphabet + "z", k=rng.randint(0, 30)))
        assert list(FoundTokens(ids).find(text)) == by_expression(ids, text), (ids, text)


def test_without_tokens_nothing_is_found() -> None:
    assert list(FoundTokens({}).find("text")) == []


def test_a_million_tokens_and_a_megabyte_take_seconds() -> None:
    """A regular expression would need 15 seconds to compile, and try all tokens at each <."""
    ids = {f"<u{number}>": number for number in range(1_000_000)}
    text = "".join(f"<u<u{number}>x" for number in range(0, 1_000_000, 10))
    started = time.process_time()
    found = list(FoundTokens(ids).find(text))
    assert time.process_time() - started < 30  # usually 3 seconds
    assert [token for _, token in found] == [f"<u{number}>" for number in range(0, 1_000_000, 10)]
    assert all(text.startswith(token, place) for place, token in found)


@pytest.mark.parametrize("type_", [TokenType.USER_DEFINED, TokenType.CONTROL])
def test_a_token_too_long_to_be_found_is_one_line(type_: TokenType, tmp_path) -> None:
    described = {"model": "gpt2", "merges": ["a a"], "pre": "gpt-2", "types": [1, type_, 1]}
    path = write_vocabulary_gguf(tmp_path / "m.gguf", tokens=["a", "x" * LONGEST, "aa"], **described)
    tokenizer = Tokenizer.from_path(path)
    assert tokenizer.encode("a" + "x" * LONGEST, special=True) == [0, 1]
    path = write_vocabulary_gguf(tmp_path / "m.gguf", tokens=["a", "x" * (LONGEST + 1), "aa"], **described)
    with pytest.raises(Llama3Error, match=r"token 1 has 4,097 characters") as caught:
        Tokenizer.from_path(path)
    assert "\n" not in str(caught.value)
