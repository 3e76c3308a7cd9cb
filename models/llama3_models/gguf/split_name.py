"""The names of a split GGUF's parts; separate from the code that reads them, which imports gguf and numpy."""

from __future__ import annotations

import re
from typing import Final

SPLIT_NAME: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
"""The name of a part, as llama.cpp's gguf-split writes it."""
