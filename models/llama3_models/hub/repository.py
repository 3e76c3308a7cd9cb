"""A repository of the Hugging Face Hub as a model: ORG/REPO, or ORG/REPO:Q4_K_M for one of its files.

llama.cpp spells it so, and the rules by which a file is chosen are its own (`common/download.cpp`): the tag is looked
for in the names of the files; without one Q4_K_M is taken, then Q8_0, then the first file there is.
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

# What a browser has of a file or of its page.
_LINK = re.compile(
    r"https?://(?:huggingface\.co|hf\.co)/(?P<repository>\w[\w.-]*/\w[\w.-]*)"
    r"/(?:resolve|blob)/[^/]+/(?P<file>\w[\w./-]*\.gguf)(?:\?.*)?",
    re.ASCII,
)
_DEFAULT_TAGS = ("Q4_K_M", "Q8_0")

# GGUFs that lie beside models and are none: projectors of images, importance matrices, drafts.
_NO_MODEL = re.compile(r"mmproj|imatrix|(?:mtp|eagle3|dflash|dspark)-", re.IGNORECASE)

_MOST_NAMED = 12
"""Of the files that a message names."""


@dataclass(frozen=True)
class Repository:
    """What a user wrote: a repository, and a part of a file's name that says which of its files.

    `named_hub` is whether the hub was named, too, so that nothing else can have been meant.
    """

    name: str
    tag: str | None
    named_hub: bool = False

    def __str__(self) -> str:
        return self.name if self.tag is None else f"{self.name}:{self.tag}"


def parse(model: str) -> Repository | None:
    """Read ORG/REPO[:TAG], with or without huggingface.co/ or hf.co/ in front, or a link; None for any other text."""
    if match := _LINK.fullmatch(model):
        return Repository(match["repository"], match["file"], named_hub=True)
    match = _SPELLING.fullmatch(model)
    return Repository(match["repository"], match["tag"], match["hub"] is not None) if match else None


def choose(files: Sequence[str], tag: str | None) -> tuple[str, ...] | None:
    """Choose the GGUF that a tag means.

    Args:
        files: The paths of all files in the repository.
        tag: A file's path or name, or a part of it between dots, dashes, underscores and slashes, in any case. None
            for the default.

    Returns:
        The file, or all parts of a split one, first things first; None where no file fits.
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
    """Whether a file of a repository is a GGUF with a model, going by its name."""
    folders, _, name = file.rpartition("/")
    leaves_the_folder = ".." in folders.split("/") or file.startswith("/")
    return name.lower().endswith(".gguf") and not _NO_MODEL.search(name) and not leaves_the_folder


def fetch(repository: Repository) -> Path:
    """Give the path of a repository's GGUF (of a split one, its first part), downloading what the cache lacks.

    A file with the tag, or a Q4_K_M where there is no tag, that the Hugging Face cache holds is used without a network.
    The other defaults are chosen from the hub's list of files, or without a network from what the cache holds.

    Raises:
        Llama3Error: the repository does not exist, has no such file, or the file cannot be had.
    """
    # Late, because it takes a few tenths of a second that a run from a local file need not pay.
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
        logger.warning("the hub was not reached; %s is what the cache holds of %s", chosen[0], repository.name)
        return folder / chosen[0]
    except SourceRefusedError as refusal:
        advice = f"check the name, or use {INSTEAD}"
        if refusal.needs_token:
            advice = (
                "check the name; if the repository is there, accept its licence on its page, put a read token of that "
                f"account ({constants.ENDPOINT}/settings/tokens) into HF_TOKEN, or use {INSTEAD}"
            )
        raise Llama3Error(f"{refusal}: {advice}") from None
    return paths[0]


def _all_parts(file: str) -> tuple[str, ...]:
    """All parts of the split GGUF that a file belongs to, by their names; also those that are missing."""
    folder, slash, name = file.rpartition("/")
    split = SPLIT_NAME.fullmatch(name)
    count = 0 if split is None else int(split["count"])
    if split is None or count == 0:
        return (file,)
    return tuple(f"{folder}{slash}{split['stem']}-{n:05d}-of-{count:05d}.gguf" for n in range(1, count + 1))


def _what_is_there(files: Sequence[str], tag: str | None) -> str:
    """What to say of a repository in which no file fits."""
    models = [file for file in files if is_model(file)]
    if not models:
        return "there is no GGUF of a model in this repository; those of GGUFs often have a name that ends in -GGUF"
    shown = [file for file in models if (split := SPLIT_NAME.fullmatch(file)) is None or int(split["number"]) == 1]
    near = difflib.get_close_matches(str(tag).lower(), [file.lower() for file in shown], n=_MOST_NAMED, cutoff=0.0)
    by_lower = {file.lower(): file for file in shown}
    names = [by_lower[name] for name in near]
    more = f" and {len(shown) - len(names)} more" if len(shown) > len(names) else ""
    return f"no file has {tag!r} in its name; there is {', '.join(names)}{more}"


def _snapshot(repository: str) -> Path | None:
    """The folder of the Hugging Face cache with the files of the repository's main branch, if there is one."""
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
    """The files under a folder that are there, sorted; a link to a blob that was removed is not."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf") if path.is_file())
