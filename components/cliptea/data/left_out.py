"""What folders hold and is not read: its number and its first paths, by the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, Field

from cliptea.messages import printable

__all__ = ["UNLISTED", "LeftOut", "count", "left_out_lines"]

UNLISTED = "no list of these splits names them"
SHOWN = 5  # paths


class LeftOut(BaseModel):
    """What is left out for one reason."""

    number: int = Field(ge=1)
    first: list[str]  # at most `SHOWN` of its paths


def count(found: Mapping[str, Sequence[str]]) -> dict[str, LeftOut]:
    """What is left out by the reason, from all paths by the reason."""
    return {
        why: LeftOut(number=len(paths), first=[*map(printable, paths[:SHOWN])]) for why, paths in found.items() if paths
    }


def left_out_lines(found: Mapping[str, LeftOut], of: str = "") -> list[str]:
    """One line for each reason. What no list of a published data set names is only counted, as that is its protocol.

    Args:
        of: what these are left out of, such as " of the data".
    """
    lines = []
    for why, left in found.items():
        if why == UNLISTED:
            continue
        more = f", and {left.number - SHOWN} more" if left.number > SHOWN else ""
        lines.append(f"{left.number} left out{of} ({why}): {', '.join(left.first)}{more}")
    return lines
