"""Folders of the repository."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CUSTOM_OPS = ROOT / "custom_ops"
DATA = ROOT / "tests" / "data"
