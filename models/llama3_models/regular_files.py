"""Files that must be plain ones, and whether a user's text is a path at all.

A pipe in a file's place would wait for its writer, and a device never end. A text may be too long for a path: `Path`
raises for it, where these functions say no.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

_MOST_BYTES: Final = 2 << 30  # protobuf's own limit


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read its bytes.

    Raises:
        OSError: It cannot be read, or is a folder, a pipe or a device; `strerror` and `filename` say which.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return path.open("rb")


def read_regular(path: Path) -> bytes:
    """All bytes of a file.

    Raises:
        OSError: As for `open_regular`, or it has more than 2 GiB, which neither a graph nor a JSON file of ours has.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > _MOST_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        return file.read()


def exists(path: Path | str) -> bool:
    """Whether something is there; links are followed."""
    return os.path.exists(path)  # noqa: PTH110 (see above)


def is_folder(path: Path | str) -> bool:
    """Whether a folder is there; links are followed."""
    return os.path.isdir(path)  # noqa: PTH112 (see above)


def is_link(path: Path | str) -> bool:
    """Whether a link is there, wherever it leads."""
    return os.path.islink(path)  # noqa: PTH114 (see above)
