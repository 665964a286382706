"""How settings and arguments name files and folders: by a path, or by an address such as s3://bucket/key."""

from __future__ import annotations

import re

__all__ = ["MODELS", "PLACES", "is_uri", "names_place"]

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|(?i:s3|gs|file|https?):")  # how a text begins that is no path
PLACES = "a path on this machine, s3://BUCKET/KEY or file:///absolute/path"
MODELS = "a folder, s3://BUCKET/FOLDER, models:/NAME@champion, models:/NAME/VERSION or runs:/ID/model"


def is_uri(text: str) -> bool:
    """Whether a text is a URI of any scheme and not a path. ./NAME is always a path."""
    return URI.match(text.strip()) is not None


def names_place(text: str) -> bool:
    """Whether a text is one of `PLACES`. Schemes are in lower case."""
    return text.startswith(("s3://", "file:/")) or not is_uri(text)
