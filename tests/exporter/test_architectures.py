"""Each architecture has a row in the table, a decoder, an oracle, and a place in the README."""

import re
from typing import get_args

from llama3_exporter.decoders import DECODERS
from llama3_models.architectures import ARCHITECTURES, Size
from llama3_models.config import Hyperparameters
from llama3_models.reference.model import LAYERS

from tests.support.paths import ROOT


def test_the_tables_name_the_same() -> None:
    assert set(ARCHITECTURES) == set(DECODERS) == set(LAYERS)


def test_shapes_are_of_numbers_that_there_are() -> None:
    numbers = {*Hyperparameters.__dataclass_fields__, *vars(Hyperparameters)}
    assert set(get_args(Size)) <= numbers


def test_the_readme_lists_them() -> None:
    (table,) = re.findall(r"general.architecture.*\n((?:\|.*\n)+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(ARCHITECTURES)
