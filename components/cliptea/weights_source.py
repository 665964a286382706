"""What a setting such as teacher.weights or student.pretrained names: demo, a tag, an object in S3 or a local path."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

__all__ = ["WeightsSource"]

SUFFIXES = {".pt", ".pth", ".bin", ".safetensors", ".npy"}


class WeightsSource(NamedTuple):
    """Where weights (or text features) come from.

    Attributes:
        text: the setting.
        kind: "demo", the small CLIP that the demo trains; "tag", a name under which weights are published; "remote",
            an s3:// URI; "local", a path or file:// URI of a file or folder.
    """

    text: str
    kind: Literal["demo", "tag", "remote", "local"]

    @classmethod
    def of(cls, text: str | None) -> WeightsSource:
        """What the text of a setting names.

        A plain word is a tag, unless a file or folder here has that name. Anything with a slash, or with the suffix of
        a file of weights, is never a tag.
        """
        text = text or ""
        if text == "demo":
            return cls(text, "demo")
        if text.startswith("s3://"):
            return cls(text, "remote")
        named = "/" in text or Path(text).suffix.lower() in SUFFIXES or (text and Path(text).expanduser().exists())
        return cls(text, "local" if named else "tag")

    def __str__(self) -> str:
        return self.text

    @property
    def is_file(self) -> bool:
        """Whether it is a file or folder that `fetch` gives, here or in S3."""
        return self.kind in ("local", "remote")

    @property
    def missing(self) -> bool:
        """Whether it is a path of this machine and nothing is there."""
        return self.kind == "local" and "://" not in self.text and not Path(self.text).expanduser().exists()

    def fetch(self) -> Path:
        """The local path of a file or folder; from S3, downloaded.

        Raises:
            StorageError: there is no such file or folder.
        """
        from cliptea.storage import fetch  # here, since models in MLflow carry this module and no storage

        return fetch(self.text)

    def state(self) -> list[str | int]:
        """What changes when the weights do: name, bytes, time of change or etag. Empty for what never changes: a tag.

        Raises:
            StorageError: there is no such file, folder or object.
        """
        from cliptea.storage import state

        return list(state(self.text)) if self.is_file else []
