"""The table of docs/quantization.md lists every type, and its columns agree with the formats and with GGML."""

from __future__ import annotations

import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from llama3_exporter.formats import FLOAT_TYPES, FORMATS, Format

from tests.support.paths import DOCS


def table() -> dict[str, list[str]]:
    """Return the cells after each type's name; a row may name several types."""
    section = (DOCS / "quantization.md").read_text(encoding="utf-8").split("## The mapping")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {name.strip(): cells for names, *cells in rows[2:] for name in names.split(",")}


def test_every_type_is_listed() -> None:
    supported = {ggml_type.name for ggml_type in (*FORMATS, *FLOAT_TYPES)}
    newer = {"MXFP4", "NVFP4"} - set(GGMLQuantizationType.__members__)
    assert set(table()) - newer == supported


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda fmt: fmt.type.name)
def test_a_row(fmt: Format) -> None:
    _, bits, block, zero_point, correction, bits_per_weight = table()[fmt.type.name]
    assert (int(bits), int(block)) == (fmt.bits, fmt.block_size)
    assert zero_point == ("nearest" if fmt.zero_point is None else str(fmt.zero_point))
    assert (correction == "yes") == fmt.has_minimum
    weights, n_bytes = GGML_QUANT_SIZES[fmt.type]
    in_the_file = [float(number) for number in bits_per_weight.split(" -> ")[0].split(",")]
    assert 8 * n_bytes / weights in [pytest.approx(number, abs=0.051) for number in in_the_file]
