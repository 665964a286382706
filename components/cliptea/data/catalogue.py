"""The class list of a data set, and its unseen classes, whose labels are never used in training."""

from __future__ import annotations

import difflib
import html
import re
import unicodedata
from collections.abc import Mapping, Sequence

from pydantic import BaseModel

from cliptea.errors import ConfigError
from cliptea.names import as_known, visible

__all__ = [
    "IGNORE", "MOST_NAMES", "Catalogue", "as_text", "known_to", "make_catalogue", "names_of", "require_distinct",
]  # fmt: skip

IGNORE = 255  # the label of pixels without a class
MOST_NAMES = IGNORE  # ids 0 to 254
# open_clip's tokenizer: a word, a digit or some signs become tokens, and spaces between them do not.
WORDS = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|(?:[^\w\s]|_)+")
# Before that, its ftfy straightens quotes, and leaves out control characters.
PLAIN: dict[int, str | None] = {
    **{ord(quote): "'" for quote in "\u02bc\u2018\u2019\u201a\u201b"},
    **{ord(quote): '"' for quote in "\u201c\u201d\u201e\u201f"},
    **dict.fromkeys([*range(9), 0xB, *range(0xE, 0x20), 0x7F, *range(0x206A, 0x2070), *range(0xFFF9, 0xFFFD), 0xFEFF]),
}


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


def as_text(name: str) -> str:
    """A class name as CLIP reads it: its words, digits and signs in lower case, with one space between them.

    It is only compared. What CLIP gets, and what is stored and shown, is the name as it is written.
    """
    # ftfy also maps compatible letters, such as full-width ones, to usual ones.
    plain = html.unescape(html.unescape(unicodedata.normalize("NFKC", name))).translate(PLAIN)
    return " ".join(WORDS.findall(plain.lower()))


def known_to(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Those of `names` that CLIP reads as one of `known`."""
    texts = {as_text(name) for name in known}
    return [name for name in names if as_text(name) in texts]


def require_distinct(names: Sequence[str]) -> None:
    """Check that people and CLIP can tell all class names apart. CLIP ignores case, and spaces beside signs and digits.

    Raises:
        ConfigError: a name occurs twice, two names have the same text embedding, or a name is empty or has control
            characters.
    """
    known: dict[str, str] = {}
    for name in names:
        if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in name):
            raise ConfigError(f"the class name {name!r} has control characters", "letters, digits and spaces")
        text = as_text(name)
        if not text:
            raise ConfigError(f"the class name {name!r} is empty", "a name with letters")
        if known.get(text) == name:
            raise ConfigError(f"class names occur twice: {name}", "each class once")
        if text in known:
            raise ConfigError(
                f"the class names {visible(known[text])} and {visible(name)} have the same text embedding",
                "names that differ in more than case, spaces, the form of quotes and the encoding of letters, "
                "because CLIP ignores these",
                "rename one of them",
            )
        known[text] = name


def make_catalogue(classes: Sequence[str], unseen: Sequence[str], where: str = "data.unseen") -> Catalogue:
    """Create and check a catalogue.

    Args:
        where: the origin of the unseen names, for errors.

    Raises:
        ConfigError: a name is empty, occurs twice or is not in the class list, or there are no seen or unseen classes.
    """
    require_distinct(classes)
    if len(classes) >= IGNORE:
        raise ConfigError(f"there are {len(classes)} classes", f"at most {IGNORE - 1}")
    unseen = as_known(unseen, classes)
    _require_known(unseen, classes, where)
    if not unseen or len(set(unseen)) == len(classes):
        raise ConfigError(
            f"{len(set(unseen))} of {len(classes)} classes are unseen",
            "at least one seen and one unseen class",
            "set data.unseen=[...]",
        )
    return Catalogue(classes=list(classes), unseen=[name for name in classes if name in unseen])


def names_of(
    classes: Sequence[str], synonyms: Mapping[str, Sequence[str]], where: str = "data.synonyms"
) -> dict[str, list[str]]:
    """The names of each class that has some in `synonyms`, with the class as it is written in `classes`.

    Args:
        where: the origin of the synonyms, for errors.

    Raises:
        ConfigError: the data set has no such class, or a name is empty or stands for two classes.
    """
    written = as_known(synonyms, classes)
    _require_known(written, classes, where)
    require_distinct(written)
    names = dict(zip(written, map(list, synonyms.values()), strict=True))
    every = [name for one in classes for name in names.get(one, [one])]
    require_distinct(every)
    return names


def _require_known(names: Sequence[str], classes: Sequence[str], where: str) -> None:
    strange = [name for name in names if name not in classes]
    if strange:
        raise ConfigError(
            f"{where} names {', '.join(map(visible, strange))}, which the data set does not have",
            "names from " + ", ".join(classes),
            f"perhaps {near[0]} is meant" if (near := difflib.get_close_matches(strange[0], classes, n=1)) else "",
        )
