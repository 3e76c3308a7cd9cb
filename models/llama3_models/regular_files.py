"""Reading regular files only, and checking whether a user's text is a path.

Reading a pipe would wait for its writer, and a device may never end. For a text that is too long to be a path, the
methods of `Path` raise an exception; these functions return False.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

_MOST_BYTES: Final = 2 << 30  # protobuf's limit


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read its bytes.

    Raises:
        OSError: It cannot be read, or it is a folder, a pipe or a device; `strerror` and `filename` have the details.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return path.open("rb")


def read_regular(path: Path) -> bytes:
    """Return all bytes of a file.

    Raises:
        OSError: As for `open_regular`, or it has more than 2 GiB; our graphs and JSON files are smaller.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > _MOST_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        return file.read()


def exists(path: Path | str) -> bool:
    """Return whether a path exists; links are followed."""
    return os.path.exists(path)  # noqa: PTH110 (see above)


def is_folder(path: Path | str) -> bool:
    """Return whether a path is a folder; links are followed."""
    return os.path.isdir(path)  # noqa: PTH112 (see above)


def is_link(path: Path | str) -> bool:
    """Return whether a path is a link, even a broken one."""
    return os.path.islink(path)  # noqa: PTH114 (see above)
