"""tiktoken's ranks can replace a list of merges, or the list is refused."""

import itertools
import json
import random
import time
from pathlib import Path

import pytest
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile
from llama3_models.tokenizer.byte_alphabet import CHARACTER_OF_BYTE
from llama3_models.tokenizer.byte_ranks import byte_ranks, tiktoken_ranks
from llama3_models.tokenizer.merges import complete_products, formed_products, reached_products
from llama3_models.tokenizer.pre_tokenizers import GPT2, LLAMA3, PreTokenizer
from llama3_models.tokenizer.vocabulary import ByteLevelBPE, Vocabulary

from tests.support.vocabularies import hugging_face_bpe, llama3_tokenizer_json, smollm2_gguf


def test_lists_of_merges_are_told_apart() -> None:
    """Llama 3's list has all pairs; SmolLM2's has one pair per token."""
    model = json.loads(llama3_tokenizer_json().read_text())["model"]
    complete = complete_products(model["merges"], model["vocab"])
    assert complete is not None
    assert len(complete) == 127_744
    assert complete == sorted(complete, key=model["vocab"].__getitem__)
    assert complete_products(model["merges"][:2] + model["merges"][3:], model["vocab"]) is None

    with GGUFFile.open(smollm2_gguf()) as file:
        smollm2 = Vocabulary.from_gguf(file)
    assert isinstance(smollm2.model, ByteLevelBPE)
    assert smollm2.model.merges is not None
    reached = reached_products(smollm2.model.merges)
    assert reached is not None
    assert len(reached) == 48_900


def test_ranks_of_any_list_of_merges_encode_as_the_list_does() -> None:
    """Random lists, some with pairs that never happen or several pairs per token, merge as in Hugging Face's."""
    rng = random.Random(3)
    outcomes = {"followed": 0, "refused": 0, "dropped": 0}
    for _ in range(400):
        alphabet = "abc"[: rng.randint(1, 3)]
        tokens = list(alphabet)
        merges: list[str] = []
        while len(merges) < rng.randint(1, 12):
            left, right = rng.choice(tokens), rng.choice(tokens)
            if len(left + right) <= 6 and f"{left} {right}" not in merges:
                merges.append(f"{left} {right}")
                if left + right not in tokens:
                    tokens.append(left + right)
        if rng.random() < 0.2:
            rng.shuffle(merges)
        products = reached_products(merges)
        if products is None:
            outcomes["refused"] += 1
            continue
        outcomes["followed"] += 1
        outcomes["dropped"] += len(products) < len(tokens) - len(alphabet)
        ranks = {token: rank for rank, token in enumerate(products)}
        oracle = hugging_face_bpe(tokens, merges)
        for _ in range(30):
            text = "".join(rng.choices(alphabet, k=rng.randint(1, 12)))
            assert merge_by_rank(text, ranks) == oracle.encode(text).tokens, (merges, text)
    assert min(outcomes.values()) > 10, outcomes


def merge_by_rank(text: str, ranks: dict[str, int]) -> list[str]:
    """Merge by tiktoken's rule in its simplest form."""
    parts = list(text)
    while True:
        pairs = [(ranks[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in ranks]
        if not pairs:
            return parts
        _, i = min(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def test_tokens_that_no_merge_forms_are_found() -> None:
    """They are the tokens of Llama 3 that Hugging Face's merging cannot form if pieces may not stay whole."""
    model = json.loads(llama3_tokenizer_json().read_text())["model"]
    oracle = hugging_face_bpe(model["vocab"], model["merges"])
    longer = [token for token in model["vocab"] if len(token) > 1]
    formed = [
        token for token, encoding in zip(longer, oracle.encode_batch(longer), strict=True) if len(encoding.ids) == 1
    ]
    assert len(longer) - len(formed) == 588
    complete = complete_products(model["merges"], model["vocab"])
    assert complete is not None
    assert set(formed_products(complete)) == set(formed)


BYTES = list(CHARACTER_OF_BYTE.values())


@pytest.mark.parametrize(
    ("tokens", "merges", "pre_tokenizer", "ranked"),
    [
        (["ab", "abc", "other"], ["a b", "ab c"], GPT2, ["ab", "abc"]),
        (["bc", "abc"], ["a bc", "b c"], GPT2, ["abc", "bc"]),  # has every pair that forms a token
        (["ab", "abc", "xyz"], ["a b", "ab c"], LLAMA3, ["ab", "abc", "xyz"]),  # stays whole; no merge forms it
        (["ab", "abc"], None, LLAMA3, ["ab", "abc"]),
    ],
)
def test_ranks_of_a_vocabulary(
    tokens: list[str], merges: list[str] | None, pre_tokenizer: PreTokenizer, ranked: list[str]
) -> None:
    ids = {token: token_id for token_id, token in enumerate([*BYTES, *tokens])}
    assert tiktoken_ranks(ids, ByteLevelBPE(pre_tokenizer, merges), Path("x")) == ranked


@pytest.mark.parametrize(
    ("merges", "pre_tokenizer", "message"),
    [
        (["ab"], GPT2, "'ab' is not a pair of tokens"),
        (["a b", "c d"], GPT2, "its merges form 'cd'"),
    ],
)
def test_damaged_merges_are_one_line(merges: list[str], pre_tokenizer: PreTokenizer, message: str) -> None:
    ids = {token: token_id for token_id, token in enumerate([*BYTES, "ab", "bc", "abc"])}
    with pytest.raises(Llama3Error, match=f"^x: .*{message}") as caught:
        tiktoken_ranks(ids, ByteLevelBPE(pre_tokenizer, merges), Path("x"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("merges", "pre_tokenizer", "ranks"),
    [
        (["a bc", "b c", "ab d"], GPT2, None),  # "a bc" comes before the merge that forms its half
        (["a b", "b c"], LLAMA3, (["ab", "bc"], ["abc", "abd"])),  # each is the text of two tokens
        (["a b", "b c"], GPT2, (["ab", "bc"], [])),
    ],
)
def test_merges_that_tiktoken_cannot_follow(
    merges: list[str], pre_tokenizer: PreTokenizer, ranks: tuple[list[str], list[str]] | None
) -> None:
    """A SentencePiece model can have a token for whole pieces only; tiktoken cannot."""
    ids = {token: token_id for token_id, token in enumerate([*BYTES, "ab", "bc", "abc", "abd"])}
    model = ByteLevelBPE(pre_tokenizer, merges)
    assert byte_ranks(ids, model, Path("x")) == ranks
    expected = ["ab", "bc"] if ranks == (["ab", "bc"], []) else None
    assert tiktoken_ranks(ids, model, Path("x")) == expected


def test_a_merge_that_is_twice_in_a_list_counts_where_it_stands_last() -> None:
    """Hugging Face's tokenizers read such a list the same way."""
    tokens, merges = [*BYTES, "ab", "bc"], ["a b", "b c", "a b"]
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    assert hugging_face_bpe(tokens, merges).encode("abc").tokens == ["a", "bc"]
    assert tiktoken_ranks(ids, ByteLevelBPE(GPT2, merges), Path("x")) == ["bc", "ab"]


def test_ranks_of_long_tokens_take_linear_time() -> None:
    """Trying each place takes a second for a token of 100,000 characters, and a minute for one of 800,000."""
    tail = "cd" * 400_000
    long = f"ab{tail}"
    tokens = [*BYTES, "ab", "abab", tail, long]
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    started = time.process_time()
    assert tiktoken_ranks(ids, ByteLevelBPE(LLAMA3, ["a b", "ab ab"]), Path("x")) is None
    assert tiktoken_ranks(ids, ByteLevelBPE(GPT2, ["a b", "ab ab"]), Path("x")) == ["ab", "abab"]
    merges = ["a b", "ab ab", f"ab {tail}"]
    assert complete_products(merges, ids) == ["ab", "abab", long]
    assert formed_products(["ab", "abab", tail, long]) == ["ab", "abab"]
    assert time.process_time() - started < 20  # usually 1 second
