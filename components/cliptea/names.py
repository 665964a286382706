"""Names that people write: what is one name in two Unicode forms, and how a message shows it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

__all__ = ["as_known", "composed", "visible"]


def composed(name: str) -> str:
    """The name in Unicode's composed form (NFC). Some systems write "é" as two characters (NFD)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def as_known(names: Iterable[str], known: Sequence[str]) -> list[str]:
    """The names, each as it is in `known` if it is there in another Unicode form."""
    own = set(known)
    wanted = list(names)
    if all(name in own or name.isascii() for name in wanted):
        return wanted
    forms = {composed(name): name for name in reversed(known)}
    return [name if name in own else forms.get(composed(name), name) for name in wanted]


def visible(name: str) -> str:
    """A name in quotes that shows its spaces and its Unicode form, because two names that differ may look the same."""
    shown = repr(name) if unicodedata.normalize("NFKC", name) == name else ascii(name)
    return shown if " ".join(name.split()) == name else shown.replace(" ", "␣")
