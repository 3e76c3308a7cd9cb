"""The page of `--list-models`: the models available by name."""

from __future__ import annotations

import textwrap

from llama3_models.cli.command_line import Page
from llama3_models.hub import catalogue, download
from llama3_models.terminal import WIDTH


def list_models() -> str:
    """List the models of the catalog: name, description, encodings with sizes, and which are on this machine."""
    entries = [_entry(model) for model in catalogue.all_models()]
    return "\n\n".join(
        [
            "Names for --model (llama3-run, llama3-bench) and MODEL (llama3-export,\n"
            "llama3-inspect). Sizes are in GB; * marks a file that is already on this\nmachine.",
            *entries,
            "You can also use any Hugging Face Hub repository that has GGUFs of a supported\n"
            "architecture: ORG/REPO, or ORG/REPO:Q4_K_M for one of its files.",
        ]
    )


def _entry(model: catalogue.Model) -> str:
    sizes = []
    for encoding in model.encodings:
        here = "*" if download.local_file(model, encoding) is not None else ""
        size = "" if model.package else f" {model.hub_files[encoding].gigabytes:g}"
        default = " (default)" if encoding == model.encoding_or_default(None) and len(model.encodings) > 1 else ""
        sizes.append(f"{encoding}{size}{here}{default}")
    lines = [f"{model.description}.", ", ".join(sizes), f"License: {model.license}, {model.license_url}"]
    return "\n".join([model.name, *(line for text in lines for line in _wrapped(text))])


def _wrapped(text: str) -> list[str]:
    indent = "  "
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )


MODEL_PAGES = {"--list-models": Page("List the models available by name and exit.", list_models)}
"""The pages of every command that accepts a model."""
