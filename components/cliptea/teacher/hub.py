"""Weights for open_clip's pre-training tags, from the Hugging Face hub or its local cache."""

from __future__ import annotations

import os.path
from collections import Counter
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

from cliptea.errors import TeacherError, refuse_system
from cliptea.hub_cache import cached, is_whole

__all__ = ["download", "normalisations", "tag_config"]

ANSWER_SECONDS = 5.0  # for the hub's first answer


def tag_config(model: str, tag: str) -> dict[str, Any]:
    """open_clip's description of the weights `tag` of the architecture `model`.

    Raises:
        TeacherError: this architecture has no weights with that tag. The error names architectures that have them.
    """
    config = open_clip.get_pretrained_cfg(model, tag)
    if config:
        return config
    others = open_clip.list_pretrained_models_by_tag(tag)
    if others:
        raise TeacherError(
            f"open_clip has no weights {tag!r} for {model}, only for {', '.join(others)}",
            todo="add --set teacher.model=NAME",
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    raise TeacherError(
        f"teacher.weights={tag} is not a file or folder on this machine, and {model} has no weights with that name",
        "a file, a folder, an s3:// URI" + (f", or one of {', '.join(tags)}" if tags else ""),
    )


def normalisations(model: str) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Mean and standard deviation of pixels for open_clip's published weights of an architecture, most common first."""
    tags = [open_clip.get_pretrained_cfg(model, tag) for tag in open_clip.list_pretrained_tags_by_model(model)]
    return [pair for pair, _ in Counter((tuple(tag["mean"]), tuple(tag["std"])) for tag in tags).most_common()]


def download(tag: str, config: dict[str, Any]) -> Path:
    """The weights of a tag, from the cache without network access, or downloaded into the cache.

    Args:
        tag: for messages.
        config: description from `tag_config`.

    Raises:
        TeacherError: the hub cannot be reached or rejects the request. The error comes within seconds, and names the
            file to provide instead.
        StorageError: the cache cannot be used.
    """
    repository, name = os.path.split(config["hf_hub"])  # the name is empty for the default file
    names = [name] if name else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
    for name in names:
        if found := cached(repository, name):
            return found
    try:
        return _fetch(repository, names)
    except Exception as error:  # network errors of the library, its HTTP client or the system
        todo = f"download {_wanted(repository, names, config)} elsewhere and add --set teacher.weights=FILE"
        refuse_system(error, f"cannot download the weights {tag!r}", todo)
        raise TeacherError(
            f"the weights {tag!r} cannot be downloaded from huggingface.co/{repository} "
            f"({(str(error).splitlines() or [type(error).__name__])[0]})",
            todo=todo,
        ) from error


def _fetch(repository: str, names: list[str]) -> Path:
    for name in names:
        try:
            # Check the connection first, because a download without network access retries for most of a minute.
            get_hf_file_metadata(hf_hub_url(repository, name), timeout=ANSWER_SECONDS)
        except EntryNotFoundError:
            continue
        file = Path(hf_hub_download(repository, name))
        if not is_whole(file):
            raise OSError("what was downloaded is damaged")
        return file
    raise FileNotFoundError(f"it has no {' or '.join(names)}")


def _wanted(repository: str, names: list[str], config: dict[str, Any]) -> str:
    original = os.path.basename(config.get("url", ""))
    at_hub = f"{names[0]} (huggingface.co/{repository})"
    return f"{original} or {at_hub}" if original else at_hub
