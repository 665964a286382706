"""Values of settings such as teacher.weights or student.pretrained: demo, a tag, an object in S3 or a local path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple

from cliptea.addresses import is_uri

__all__ = ["WeightsSource"]

SUFFIXES = {".pt", ".pth", ".bin", ".safetensors", ".npy"}


class WeightsSource(NamedTuple):
    """The source of weights or text features.

    Attributes:
        text: the value of the setting.
        kind: "demo" is the small CLIP that the demo trains, "tag" is the name of published weights, "remote" is an
            s3:// URI, and "local" is a path or file:// URI of a file or folder.
    """

    text: str
    kind: Literal["demo", "tag", "remote", "local"]

    @classmethod
    def of(cls, text: str | None) -> WeightsSource:
        """The source for the value of a setting.

        A plain word is a tag, unless a local file or folder has that name. A value with a slash, or with the suffix of
        a weights file, is never a tag.
        """
        text = text or ""
        if text == "demo":
            return cls(text, "demo")
        if text.startswith("s3://"):
            return cls(text, "remote")
        named = "/" in text or Path(text).suffix.lower() in SUFFIXES or (text and _exists(text))
        return cls(text, "local" if named else "tag")

    def __str__(self) -> str:
        return self.text

    @property
    def is_file(self) -> bool:
        """Whether it is a file or folder, on this machine or in S3, that `fetch` can return."""
        return self.kind in ("local", "remote")

    @property
    def missing(self) -> bool:
        """Whether it is a local path that does not exist."""
        return self.kind == "local" and not is_uri(self.text) and not _exists(self.text)

    def fetch(self) -> Path:
        """The local path of a file or folder, which is downloaded if it is in S3.

        Raises:
            StorageError: the file or folder does not exist.
        """
        from cliptea.storage import fetch  # imported here, because models in MLflow contain this module without storage

        return fetch(self.text)

    def state(self) -> list[str | int]:
        """Values that change together with the weights: name, bytes, modification time or etag. Empty for a tag.

        Raises:
            StorageError: the file, folder or object does not exist.
        """
        from cliptea.storage import state

        return list(state(self.text)) if self.is_file else []


def _exists(path: str) -> bool:
    """Whether a file or folder exists. A path that the system cannot look up, such as a too long one, does not."""
    return os.path.exists(os.path.expanduser(path))  # Path.exists raises errors until Python 3.14
