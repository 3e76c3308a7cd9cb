"""What config.json and its like say; that they are true is tests/hosts/test_transformers.py's subject."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from llama3_exporter import export

from tests.support.llama_gguf import write_llama_gguf


def written(folder: Path, name: str = "config.json", **shape: Any) -> dict[str, Any]:
    """A file of the export of a model."""
    output = export(write_llama_gguf(folder / "model.gguf", **shape), folder / "out", force=True).output
    content: dict[str, Any] = json.loads((output / name).read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "genai_config.json"])
def test_rows_are_filled_up_with_the_file_s_padding(name: str, tmp_path: Path) -> None:
    content = written(tmp_path, name, tokenizer="qwen2", vocab_size=1024, architecture="qwen2")
    content = content.get("model", content)
    tokens = json.loads((tmp_path / "out" / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    ids = {token["content"]: token["id"] for token in tokens}
    assert content["pad_token_id"] == content["bos_token_id"] == ids["<|endoftext|>"]
    assert content["eos_token_id"] == [ids["<|endoftext|>"], ids["<|im_end|>"]]
