"""An architecture has a row of the table, a decoder and an oracle."""

from llama3_exporter.decoders import DECODERS
from llama3_models.architectures import ARCHITECTURES
from llama3_models.reference.model import LAYERS


def test_the_tables_name_the_same() -> None:
    assert set(ARCHITECTURES) == set(DECODERS) == set(LAYERS)
