"""classes.json of a plain folder: the classes, which of them are unseen, and what they are in the label maps.

In label maps a class has *marks*: ids, colours, or names that a list of labels or a COCO file gives for these.
docs/data.md has a table of all forms.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from cliptea.data.catalogue import IGNORE, require_distinct
from cliptea.data.label_lists import Mark, colour_of
from cliptea.data.labels import Colours, LabelRule
from cliptea.errors import ConfigError, DataError
from cliptea.names import as_known
from cliptea.parse import parse_json

__all__ = ["DESCRIPTION", "LARGEST_ID", "NONE", "Described", "class_marks", "label_rule", "parse_description"]

DESCRIPTION = "classes.json"
EXAMPLE = 'JSON such as {"classes": ["sky", "car"], "unseen": ["car"]}'
NONE = 65535  # a pixel without a value, in label maps of 16 bits that cliptea draws
LARGEST_ID = NONE - 1


def _marks(value: object) -> list[Mark]:
    """One mark or a list of marks, as a list."""
    marks: list[Any] = value if isinstance(value, list) else [value]
    for mark in marks:
        if isinstance(mark, bool) or not isinstance(mark, (int, str)):
            raise ValueError(f"{mark!r} is neither an id nor a colour nor a name")
        if isinstance(mark, int) and not 0 <= mark <= LARGEST_ID:
            raise ValueError(f"{mark} is not an id from 0 to {LARGEST_ID}")
    return marks


def _classes(value: object) -> list[str] | dict[str, list[Mark]]:
    if isinstance(value, dict):
        if empty := [name for name, marks in value.items() if marks == []]:
            raise ValueError(f"{empty[0]!r} has no id, no colour and no name in label maps")
        return {name: _marks(marks) for name, marks in value.items()}
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("it is neither a list of names, nor names with their ids or colours")
    return value


def _file(value: object) -> str:
    if not isinstance(value, str) or not value or value.startswith(".") or {*value} & {*"/\\"}:
        raise ValueError(f"{value!r} is not the name of a file next to {DESCRIPTION}")
    return value


class Described(BaseModel):
    """classes.json."""

    model_config = ConfigDict(extra="forbid", strict=True)

    classes: Annotated[list[str] | dict[str, list[Mark]] | None, PlainValidator(_classes)] = None
    unseen: list[str] = []
    ignore: Annotated[list[Mark], PlainValidator(_marks)] = []  # what means no class, in addition to the id 255
    first_id: int = Field(0, ge=0, le=IGNORE - 1)  # of a list of classes
    label_list: Annotated[str | None, PlainValidator(_file)] = None  # a file with the names of ids or colours


def parse_description(data: bytes, where: str) -> Described:
    """Read the content of classes.json.

    Args:
        where: the path of the file, for errors.

    Returns:
        What it says, with the defaults of keys that it lacks.

    Raises:
        DataError: the file is not JSON, or has unknown keys or values of another kind.
    """
    try:
        return Described.model_validate(parse_json(data, where))
    except ConfigError as error:
        raise DataError(error.what, EXAMPLE) from None
    except ValidationError as error:
        first = error.errors()[0]
        if strange := [str(one["loc"][0]) for one in error.errors() if one["type"] == "extra_forbidden"]:
            keys = list(Described.model_fields)
            near = {key: difflib.get_close_matches(key, keys, n=1, cutoff=0.0)[0] for key in strange}
            said = ", ".join(f"{key!r} (perhaps {known})" for key, known in near.items())
            raise DataError(f"{where} has the unknown keys {said}", f"only {', '.join(keys)}") from None
        place = f"{'.'.join(map(str, first['loc']))}: " if first["loc"] else ""
        said = first["msg"].removeprefix("Value error, ") if first["loc"] else "it holds no keys"
        raise DataError(f"{where} cannot be read ({place}{said})", EXAMPLE) from None


def class_marks(described: Described, named: Mapping[str, Mark] | None, where: str) -> dict[str, list[Mark]]:
    """The marks of each class, in the order of the classes.

    Args:
        named: the marks that a list of labels or a COCO file gives names.
        where: the path of classes.json, for errors.

    Raises:
        ConfigError: a list of classes names one twice.
        DataError: there are no classes.
    """
    classes, first = described.classes, described.first_id
    if isinstance(classes, list):
        require_distinct(classes)
    if isinstance(classes, list) and named is None:
        return {name: [first + index] for index, name in enumerate(classes)}
    if first:
        raise DataError(
            f"{where} has first_id={first}",
            "first_id only with a plain list of classes, without a label_list or COCO file",
        )
    if classes is None and named is None:
        raise DataError(
            f"{where} has no classes", f"{EXAMPLE}, a label_list, or a COCO file in labels/train and labels/val"
        )
    if classes is None:
        marks = named or {}
        ignored = {colour_of(mark) if isinstance(mark, str) else mark for mark in described.ignore}
        names = as_known((mark for mark in described.ignore if isinstance(mark, str)), [*marks])
        return {name: [name] for name, mark in marks.items() if name not in names and mark not in ignored}
    return classes if isinstance(classes, dict) else {name: [name] for name in classes}


def label_rule(described: Described, named: Mapping[str, Mark] | None, where: str, drawn: bool = False) -> LabelRule:
    """The meaning of label maps.

    Args:
        named, where: as for `class_marks`.
        drawn: whether the label maps hold the ids of a COCO file, and `NONE`.

    Raises:
        DataError: a mark has no meaning or two, or there are both ids and colours.
    """
    by_class = class_marks(described, named, where)
    owners: dict[Mark, int] = {}
    for index, marks in [*enumerate(by_class.values()), (IGNORE, described.ignore)]:
        for mark in (_resolved(mark, named, where) for mark in marks):
            if owners.setdefault(mark, index) != index:
                triple = any(len(marks) == 3 and isinstance(marks[0], int) for marks in by_class.values())
                todo = 'write colours as "128,64,128", because [128, 64, 128] is a list of ids' if triple else ""
                raise DataError(f"{where} gives {mark} two meanings", "each id and each colour once", todo)
    ids = {mark: owner for mark, owner in owners.items() if isinstance(mark, int)}
    colours = {mark: owner for mark, owner in owners.items() if isinstance(mark, str)}
    if ids and colours:
        raise DataError(f"{where} has both ids and colours", "one kind, because label maps hold the one or the other")
    if colours:
        return _of_colours(colours, named or {})
    ignored = sorted(mark for mark, owner in ids.items() if owner == IGNORE)
    origin = repr(ignored).encode() if ignored else b""  # the table does not tell them from unknown ids
    if isinstance(described.classes, list) and named is None:
        return replace(_of_list(described, where, ids), origin=origin)
    names = {mark: f"{mark} = {name}" for name, mark in (named or {}).items() if isinstance(mark, int)}
    free = [NONE] if drawn else [IGNORE]
    todo = f'add each of them to a class or to "ignore" in {DESCRIPTION}'
    table, known = _tables(ids, free, drawn)
    return LabelRule(table, known, f"ids that {DESCRIPTION} names", todo, shown=names, origin=origin)


def _resolved(mark: Mark, named: Mapping[str, Mark] | None, where: str) -> Mark:
    """The id or the colour (#rrggbb) of a mark."""
    if isinstance(mark, int):
        return mark
    (known,) = as_known([mark], [*(named or ())])
    if named is not None and known in named:
        return named[known]
    if colour := colour_of(mark):
        return colour
    near = difflib.get_close_matches(mark, named or (), n=1)
    other = ", or a name of the label list or COCO file" if named is not None else ""
    raise DataError(
        f"{where} has the id, colour or name {mark!r}, which has no meaning",
        f'an id, a colour such as "#804080" or "128,64,128"{other}',
        f"perhaps {near[0]} is meant" if near else "",
    )


def _tables(ids: Mapping[int, int], free: list[int], drawn: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Table and known values of a rule: `ids` with their train ids, and the ids `free`, which may occur as no class."""
    size = NONE + 1 if drawn or max(ids, default=0) > IGNORE else IGNORE + 1
    table, known = np.full(size, IGNORE, dtype=np.uint8), np.zeros(size, dtype=bool)
    for mark, owner in ids.items():
        table[mark] = owner
    known[[*ids, *free]] = True
    return table, known


def _of_list(described: Described, where: str, ids: dict[int, int]) -> LabelRule:
    """The rule of a list of classes, whose ids follow each other."""
    number, first = len(described.classes or ()), described.first_id
    last = first + number - 1
    if last >= IGNORE:
        raise DataError(
            f"{where} has ids up to {last}", f"at most {IGNORE - 1}", 'or classes with their ids, as {"sky": 300}'
        )
    table, known = _tables(ids, [*range(first), IGNORE])
    todo = f'if {last + 1} is not a class, add "ignore": {last + 1} to {DESCRIPTION}'
    if not first:
        todo += ', and if the ids start at 1 and 0 is not a class, add "first_id": 1'
    return LabelRule(table, known, f"{first} to {last} (the {number} classes of {DESCRIPTION}) or {IGNORE}", todo)


def _of_colours(colours: dict[str, int], named: Mapping[str, Mark]) -> LabelRule:
    codes = [int(colour[1:], 16) for colour in colours]
    names = {int(mark[1:], 16): name for name, mark in named.items() if isinstance(mark, str)}
    expected = f"colours that {DESCRIPTION} names"
    meaning = Colours(codes, expected, True, f'add each of them to a class or to "ignore" in {DESCRIPTION}', names)
    table = np.array(list(colours.values()), dtype=np.uint8)
    return LabelRule(table, np.ones(len(table), bool), expected, "", colours=meaning, origin=repr(codes).encode())
