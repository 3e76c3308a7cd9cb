"""A repository of the Hugging Face Hub as a model: ORG/REPO, or ORG/REPO:Q4_K_M for one of its files.

The spelling and the rules for choosing a file are llama.cpp's (`common/download.cpp`): a file with the tag in its name;
without a tag, Q4_K_M, then Q8_0, then the first file.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llama3_models.errors import Llama3Error
from llama3_models.gguf.split_name import SPLIT_NAME
from llama3_models.hub.catalogue import INSTEAD, Source

logger = logging.getLogger(__name__)

_SPELLING = re.compile(
    r"(?P<hub>(?:https?://)?(?:huggingface\.co|hf\.co)/)?"
    r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(?::(?P<tag>\w[\w./-]*))?",
    re.ASCII,
)

# The URL of a file or of its page, as copied from a browser.
_LINK = re.compile(
    r"https?://(?:huggingface\.co|hf\.co)/(?P<repository>\w[\w.-]*/\w[\w.-]*)"
    r"/(?:resolve|blob)/[^/]+/(?P<file>\w[\w./-]*\.gguf)(?:\?.*)?",
    re.ASCII,
)
_DEFAULT_TAGS = ("Q4_K_M", "Q8_0")

# GGUFs beside a model that are not models themselves: image projectors, importance matrices, draft models.
_NO_MODEL = re.compile(r"mmproj|imatrix|(?:mtp|eagle3|dflash|dspark)-", re.IGNORECASE)

_MOST_NAMED = 12
"""Maximum number of files that a message names."""


@dataclass(frozen=True)
class Repository:
    """A repository as a user wrote it; `tag` is a part of a file name that chooses one of its files.

    `named_hub` says whether the text also named the hub, so it cannot mean a path.
    """

    name: str
    tag: str | None
    named_hub: bool = False

    def __str__(self) -> str:
        return self.name if self.tag is None else f"{self.name}:{self.tag}"


def parse(model: str) -> Repository | None:
    """Parse ORG/REPO[:TAG], with or without huggingface.co/ or hf.co/ in front, or a URL; None for any other text."""
    if match := _LINK.fullmatch(model):
        return Repository(match["repository"], match["file"], named_hub=True)
    match = _SPELLING.fullmatch(model)
    return Repository(match["repository"], match["tag"], match["hub"] is not None) if match else None


def choose(files: Sequence[str], tag: str | None) -> tuple[str, ...] | None:
    """Choose the GGUF that a tag means.

    Args:
        files: The paths of all files in the repository.
        tag: A file's path or name, or a part of it between dots, dashes, underscores and slashes, in upper or lower
            case. None for the default.

    Returns:
        The file, or all parts of a split one in order; None if no file fits.
    """
    models = [file for file in files if is_model(file)]
    for wanted in _DEFAULT_TAGS if tag is None else (tag,):
        part_of_name = re.compile(rf"(?:^|[-._/]){re.escape(wanted)}[-.]", re.IGNORECASE)
        named = [file for file in models if wanted in (file, file.rpartition("/")[2])]
        found = named or [file for file in models if part_of_name.search(file)]
        if found:
            return _all_parts(found[0])
    return _all_parts(models[0]) if models and tag is None else None


def is_model(file: str) -> bool:
    """Return whether a file of a repository is a GGUF with a model, judging by its name."""
    folders, _, name = file.rpartition("/")
    leaves_the_folder = ".." in folders.split("/") or file.startswith("/")
    return name.lower().endswith(".gguf") and not _NO_MODEL.search(name) and not leaves_the_folder


def fetch(repository: Repository) -> Path:
    """Return the path of a repository's GGUF (of a split one, its first part), and download what the cache lacks.

    A cached file with the tag, or a cached Q4_K_M if there is no tag, is used without a network. Other defaults are
    chosen from the hub's list of files or, without a network, from the cached files.

    Raises:
        Llama3Error: the repository or the file does not exist, or the file cannot be downloaded.
    """
    # Imported here because it takes a few tenths of a second, and a run from a local file does not need it.
    from huggingface_hub import constants

    from llama3_models.hub.transfer import HubUnreachableError, SourceRefusedError, download, list_files

    folder = _snapshot(repository.name)
    cached = [] if folder is None else _files_of(folder)
    chosen = choose(cached, repository.tag or _DEFAULT_TAGS[0])
    if folder is not None and chosen is not None and set(chosen) <= set(cached):
        return folder / chosen[0]
    try:
        files = list_files(repository.name)
        chosen = choose(files, repository.tag)
        if chosen is None:
            raise Llama3Error(f"{repository.name}: {_what_is_there(files, repository.tag)}")
        paths = [download(Source(repository.name, file)) for file in chosen]
    except HubUnreachableError:
        chosen = choose(cached, repository.tag)
        if folder is None or chosen is None or not set(chosen) <= set(cached):
            raise
        logger.warning("cannot reach the hub; using %s, which is in the cache, for %s", chosen[0], repository.name)
        return folder / chosen[0]
    except SourceRefusedError as refusal:
        advice = f"check the name, or use {INSTEAD}"
        if refusal.needs_token:
            advice = (
                "check the name; if the repository exists, accept its license on its page and set HF_TOKEN to a read "
                f"token of that account ({constants.ENDPOINT}/settings/tokens), or use {INSTEAD}"
            )
        raise Llama3Error(f"{refusal}; {advice}") from None
    return paths[0]


def _all_parts(file: str) -> tuple[str, ...]:
    """Return the names of all parts of the split GGUF that a file belongs to, including missing ones."""
    folder, slash, name = file.rpartition("/")
    split = SPLIT_NAME.fullmatch(name)
    count = 0 if split is None else int(split["count"])
    if split is None or count == 0:
        return (file,)
    return tuple(f"{folder}{slash}{split['stem']}-{n:05d}-of-{count:05d}.gguf" for n in range(1, count + 1))


def _what_is_there(files: Sequence[str], tag: str | None) -> str:
    """Return the error for a repository without a fitting file."""
    models = [file for file in files if is_model(file)]
    if not models:
        return "there is no GGUF model in this repository; use one with GGUFs (their names often end in -GGUF)"
    shown = [file for file in models if (split := SPLIT_NAME.fullmatch(file)) is None or int(split["number"]) == 1]
    near = difflib.get_close_matches(str(tag).lower(), [file.lower() for file in shown], n=_MOST_NAMED, cutoff=0.0)
    by_lower = {file.lower(): file for file in shown}
    names = [by_lower[name] for name in near]
    more = f" and {len(shown) - len(names)} more" if len(shown) > len(names) else ""
    return f"no file has {tag!r} in its name; choose one of {', '.join(names)}{more}"


def _snapshot(repository: str) -> Path | None:
    """Return the folder of the Hugging Face cache with the repository's main branch, if there is one."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.file_download import repo_folder_name

    try:
        folder = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repository, repo_type="model"))
        commit = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (HFValidationError, OSError, UnicodeDecodeError):
        return None
    if not re.fullmatch("[0-9a-f]{40}", commit):
        return None
    snapshot = folder / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def _files_of(folder: Path) -> list[str]:
    """Return the GGUFs under a folder, sorted, without links to blobs that were removed."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf") if path.is_file())
