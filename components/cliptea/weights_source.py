"""Where the teacher's weights and text features lie. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from cliptea.storage import state

__all__ = ["is_tag", "weights_state"]

SUFFIXES = {".pt", ".pth", ".bin", ".safetensors", ".npy"}


def is_tag(source: str) -> bool:
    """Whether `source` can only be a pre-training tag: no file or folder, nor what reads as the name of one."""
    if "/" in source or Path(source).suffix.lower() in SUFFIXES:
        return False
    return not source or not Path(source).expanduser().exists()


def weights_state(source: str) -> list[str | int]:
    """What changes when the weights (or text features) that `source` names do: name, bytes, time of change or etag.

    Empty for a pre-training tag, whose weights never change.

    Raises:
        StorageError: there is no such file, folder or object.
    """
    return [] if is_tag(source) else list(state(source))
