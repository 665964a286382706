"""Lists of label names with their colours or ids, as annotation tools export them.

CVAT and its VOC export write `labelmap.txt` with lines `name:r,g,b:parts:actions`; its CamVid export writes lines
`r g b name`. labelme's `labels.txt` has one name a line: `__ignore__`, then the name of the id 0, 1, and so on.
"""

from __future__ import annotations

import re

from cliptea.errors import DataError

__all__ = ["Mark", "colour_of", "parse_list"]

Mark = int | str  # of a class in label maps: its id, its colour as #rrggbb, or a name that stands for one of these

NO_CLASS = "__ignore__"  # labelme's name of the id -1, which is 255 in its label maps
COLOUR = re.compile(r"#([0-9a-fA-F]{6})|(\d{1,3}) *, *(\d{1,3}) *, *(\d{1,3})")
FORMS = (
    re.compile(r"(?P<name>[^:]*[^:\s])\s*:(?P<colour>[\d, ]+):[^:]*:[^:]*"),
    re.compile(r"(?P<colour>\d{1,3}\s+\d{1,3}\s+\d{1,3})\s+(?P<name>\S.*)"),
)


def colour_of(text: str) -> str | None:
    """A colour such as "#0a141e" or "10,20,30" as #rrggbb, or None if the text is none."""
    if (match := COLOUR.fullmatch(text.strip())) is None:
        return None
    if match[1]:
        return f"#{match[1].lower()}"
    parts = [int(part) for part in match.groups()[1:]]
    return "#{:02x}{:02x}{:02x}".format(*parts) if max(parts) <= 255 else None


def parse_list(data: bytes, where: str) -> dict[str, Mark]:
    """The mark of each name: a colour, or in a list of names alone the number of its line, from 0.

    Args:
        where: the file, for errors.

    Raises:
        DataError: a line has another form than the first one, or a name occurs twice.
    """
    expected = "lines such as road:128,64,128:: (CVAT), 128 64 128 road (CamVid), or names alone (labelme)"
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise DataError(f"{where} is not UTF-8", expected) from None
    rows = [(number, line) for number, line in enumerate(lines, 1) if line and not line.startswith("#")]
    form = next((form for form in FORMS if rows and form.fullmatch(rows[0][1])), None)
    if not rows or (form is None and re.search(r"[:;,\t]", rows[0][1])):
        raise DataError(f"{where} has no label names that can be read", expected)
    for place, (number, _) in enumerate(rows, 1):
        if not form and number != place:  # labelme counts it
            raise DataError(f"line {place} of {where} is blank or a comment", "a list of names without such lines")
    marks: dict[str, Mark] = {}
    for number, line in rows:
        match = form and form.fullmatch(line)
        colour = match and colour_of(re.sub(r"[\s,]+", ",", match["colour"].strip()))
        if form and not colour:
            raise DataError(f"line {number} of {where} is {line!r}, which has another form than the first", expected)
        name = match["name"] if match else line
        if name in marks:
            raise DataError(f"{where} names {name!r} twice", "each name once")
        if colour:
            marks[name] = colour
        elif name != NO_CLASS:
            marks[name] = len(marks)
    return marks
