"""The class list of a data set, and its unseen classes, whose labels are never used in training."""

from __future__ import annotations

from collections.abc import Sequence
from unicodedata import category

from pydantic import BaseModel

from cliptea.errors import ConfigError

__all__ = ["IGNORE", "Catalogue", "make_catalogue"]

IGNORE = 255  # the label of pixels without a class


class Catalogue(BaseModel):
    """Class names in the order of their train ids, and which of them are unseen."""

    classes: list[str]
    unseen: list[str]

    @property
    def seen(self) -> list[str]:
        return [name for name in self.classes if name not in self.unseen]

    @property
    def unseen_ids(self) -> list[int]:
        return [index for index, name in enumerate(self.classes) if name in self.unseen]

    @property
    def seen_ids(self) -> list[int]:
        """Train ids of the seen classes. The position of a class in this list is its *seen index*."""
        return [index for index, name in enumerate(self.classes) if name not in self.unseen]


def make_catalogue(classes: Sequence[str], unseen: Sequence[str]) -> Catalogue:
    """Create and check a catalogue.

    Raises:
        ConfigError: a name is empty, occurs twice or is not in the class list, or there are no seen or unseen classes.
    """
    empty = [name for name in classes if not name.strip() or any(category(sign) in ("Cc", "Cs") for sign in name)]
    if empty:
        raise ConfigError(
            f"the class name {empty[0]!r} is empty or has control characters", "a name of letters, digits and spaces"
        )
    doubled = {name for name in classes if list(classes).count(name) > 1}
    if doubled:
        raise ConfigError(f"class names occur twice: {', '.join(sorted(doubled))}", "each class once")
    if len(classes) >= IGNORE:
        raise ConfigError(f"there are {len(classes)} classes", f"at most {IGNORE - 1}")
    strange = [name for name in unseen if name not in classes]
    if strange:
        raise ConfigError(
            f"data.unseen names {', '.join(map(repr, strange))}, which the data set does not have",
            "names from " + ", ".join(classes),
        )
    if not unseen or len(set(unseen)) == len(classes):
        raise ConfigError(
            f"{len(set(unseen))} of {len(classes)} classes are unseen",
            "at least one seen and one unseen class",
            "set data.unseen=[...]",
        )
    return Catalogue(classes=list(classes), unseen=[name for name in classes if name in unseen])
