"""The KV cache has exactly the requested size, or is refused in one line."""

from types import SimpleNamespace

import pytest
from llama3_models.errors import Llama3Error
from llama3_runtime.kv_cache import KVCache


class GraphOfTwoLayers:
    """The inputs of a session with 2 layers of 8 key-value heads of 64 elements."""

    def get_inputs(self) -> list[SimpleNamespace]:
        names = ["input_ids", *(f"past_key_values.{i}.{part}" for i in range(2) for part in ("key", "value"))]
        return [SimpleNamespace(name=name, shape=["batch", 8, "past", 64], type="tensor(float)") for name in names]


def test_it_takes_what_the_length_asks_for() -> None:
    assert KVCache(GraphOfTwoLayers(), 100, "cpu").nbytes == 2 * 2 * 8 * 100 * 64 * 4


@pytest.mark.parametrize("max_length", [2**40, 2**52, 2**62])
def test_a_length_beyond_the_memory_is_one_line(max_length: int) -> None:
    with pytest.raises(Llama3Error, match=f"memory for the KV cache: {max_length} positions"):
        KVCache(GraphOfTwoLayers(), max_length, "cpu")
