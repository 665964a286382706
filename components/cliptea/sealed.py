"""JSON documents that carry the sha256 of their own content, so that damage is noticed when they are read.

Manifests, receipts, deferred entries and everything that steps hand to each other are written like this.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, TypeVar

from pydantic import BaseModel

from cliptea.errors import NotFinite

__all__ = ["Damaged", "seal", "unseal"]

SEAL = "sha256"  # the key of the hash, next to the keys of the content

Document = TypeVar("Document", bound=BaseModel)


class Damaged(ValueError):
    """The content does not match its sha256. The text continues a sentence about the document."""


def seal(document: BaseModel) -> bytes:
    """The document as JSON, with the sha256 of its content.

    Raises:
        NotFinite: a number in it is NaN or infinite, which JSON cannot hold.
    """
    if not _finite(document.model_dump()):  # whose NaN would be null in JSON
        raise NotFinite(f"a number in a {type(document).__name__} is not finite", "finite numbers only")
    content = document.model_dump(mode="json")
    return json.dumps({**content, SEAL: _digest(content)}, indent=1).encode()


def unseal(data: bytes, model: type[Document]) -> Document:
    """Read a document that `seal` has written.

    Raises:
        Damaged: the hash is missing or does not match the content.
        ValidationError: another version of cliptea has written it.
    """
    try:
        content: Any = json.loads(data)
        found = content.pop(SEAL)
        whole = found == _digest(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Damaged("is damaged: it holds no sha256 of its content") from None
    if not whole:
        raise Damaged("is damaged: its content does not match its sha256")
    return model.model_validate(content)


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict | list | tuple):
        return all(map(_finite, value.values() if isinstance(value, dict) else value))
    return True


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
