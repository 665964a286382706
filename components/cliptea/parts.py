"""Parts: runs that each train a share of the students, because one workflow cannot hold them all.

All parts have the same settings and one comparison, see `cliptea.steps.part_results`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

from cliptea.errors import ConfigError

__all__ = ["Part", "numbers_of", "ranges"]

Item = TypeVar("Item")
PART = re.compile(r"([0-9]{1,6})/([0-9]{1,6})(?: with ([0-9,-]+))?")
RANGE = re.compile(r"\s*([0-9]{1,6})\s*(?:-\s*([0-9]{1,6})\s*)?")


class Part(NamedTuple):
    """One of several runs. A run without other parts is part 1 of 1."""

    number: int  # from 1
    of: int
    needs: str = ""  # other parts, such as 1-49, that have run and that its comparison must have

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read a text such as 2/50, or "50/50 with 1-49" for one with `needs`. An empty text is the whole.

        Raises:
            ConfigError: it is something else.
        """
        found = PART.fullmatch(text or "1/1")
        part = cls(int(found[1]), int(found[2]), found[3] or "") if found else cls(0, 0)
        if not 1 <= part.number <= part.of:
            raise ConfigError(f"part={text!r} is not a part of a run", "its number and their count, such as 2/50")
        if part.needs:
            numbers_of(part.needs, part.of)
        return part

    @property
    def name(self) -> str:
        """Its number and their count, such as 2/50."""
        return f"{self.number}/{self.of}"

    def __str__(self) -> str:
        return f"{self.name} with {self.needs}" if self.needs else self.name

    def share(self, items: Sequence[Item]) -> list[Item]:
        """The items of this part: consecutive items. The sizes of two parts differ by at most one."""
        first, last = (len(items) * number // self.of for number in (self.number - 1, self.number))
        return list(items[first:last])


def numbers_of(text: str, of: int) -> list[int]:
    """The numbers in a text such as 2,4-50, in ascending order.

    Raises:
        ConfigError: it is something else, or a number is not between 1 and `of`.
    """
    numbers: set[int] = set()
    for item in text.split(","):
        found = RANGE.fullmatch(item)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= first <= last <= of:
            raise ConfigError(f"cannot read the parts {text!r}", f"numbers from 1 to {of}, such as 1 or 1-{of}")
        numbers |= set(range(first, last + 1))
    return sorted(numbers)


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as a text such as 2,4-50, which `numbers_of` reads."""
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in _runs(numbers))


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first and last number of each run of consecutive numbers."""
    first = 0
    for place, number in enumerate(numbers):
        if place == len(numbers) - 1 or numbers[place + 1] != number + 1:
            yield numbers[first], number
            first = place + 1
