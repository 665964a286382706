"""Reads YAML and JSON that somebody else wrote, without surprises and within limits of size and depth.

YAML is read with the types of YAML 1.2: 010 and 2:30 are text, and so are yes, no, on, off and dates. Aliases count as
what they stand for, because a few lines of them can stand for any amount of data. Repeated keys are refused, because
only one of them would count. JSON must not contain NaN or Infinity, which JSON does not have.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import yaml

from cliptea.errors import ConfigError
from cliptea.files import PIPE, oddity

__all__ = ["MOST", "parse_json", "parse_yaml", "read_text", "require_utf8"]

MOST = 1 << 20  # bytes
OF_SHELL = re.compile(r"/dev/(?:stdin|fd/\d+)|/proc/self/fd/\d+")  # names of pipes that have a writer
MOST_NODES = 50_000  # scalars, lists and mappings of YAML; a long text counts once for every `PIECE` characters
PIECE = 100
# Of JSON, whose values take about 40 bytes of memory each: a list counts as 2 of them, and an object as 16.
MOST_VALUES = 1 << 27
DEEPEST = 50  # nested lists and mappings
SHOWN = 120  # characters of a reason

BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
CORE = {  # the scalars of YAML 1.2's core schema, except for octal and hexadecimal numbers; all others are text
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    "merge": (r"<<", "<"),  # of YAML 1.1: {<<: *other} takes over the keys of another mapping
    "float": (
        r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf)|\.nan",
        "-+.0123456789",
    ),
}


def parse_yaml(
    text: str, what: str, expected: str = "", *, typed: bool = True, first: bool = False, comments: bool = True
) -> Any:
    """The content of one YAML document.

    Args:
        what: what the text is, for errors.
        expected: an example of such a text, for errors.
        typed: False leaves every scalar as its text, for settings that know their own types.
        first: whether more documents may follow, which are not read.
        comments: whether comments are left out or refused, because nobody means one on a command line.

    Raises:
        ConfigError: it is no YAML, too large or too deep, or has tags or repeated keys.
    """
    try:
        if len(text) > MOST:
            raise yaml.YAMLError(f"it is larger than {MOST >> 10} KiB")
        if not comments:
            _refuse_comments(text)
        _check(text)
        loader = _Loader if typed else _Texts
        return next(yaml.load_all(text, loader), None) if first else yaml.load(text, loader)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark and "\n" in text.strip() else ""
        raise ConfigError(f"cannot read {what}{line}: {_reason(error)}", expected) from None


def parse_json(data: bytes, what: str, expected: str = "", most: int = MOST) -> Any:
    """The content of a JSON file in UTF-8, with or without a byte order mark.

    Args:
        what: what the file is, for errors.
        expected: an example of such a file, for errors.
        most: the largest number of bytes.

    Raises:
        ConfigError: it is no JSON, too large or too deep, or has repeated keys or numbers that are not finite.
    """
    try:
        if len(data) > most:
            raise ValueError(f"it is larger than {most >> 10} KiB")
        if data.count(b",") + 2 * data.count(b"[") + 16 * data.count(b"{") > MOST_VALUES:
            raise ValueError("it has too many values, lists and objects")
        return json.loads(
            data.decode("utf-8-sig"), object_pairs_hook=_once, parse_constant=_finite, parse_float=_finite
        )
    except RecursionError:
        raise ConfigError(f"cannot read {what}: its lists and objects are nested too deeply", expected) from None
    except ValueError as error:  # also for bytes that are no UTF-8
        raise ConfigError(f"cannot read {what}: {_reason(error)}", expected) from None


def read_text(path: Path, what: str, most: int = MOST) -> bytes:
    """The bytes of a small file, or of a shell's pipe such as /dev/stdin. Nothing else is ever opened.

    Args:
        what: what the file is, for errors.
        most: the largest number of bytes.

    Raises:
        ConfigError: it is missing, larger, or not a file.
    """
    odd = oddity(path)
    if odd and not (odd == PIPE and OF_SHELL.fullmatch(str(path))):
        raise ConfigError(f"cannot read {what} {path}: it is {odd}", "a file")
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise ConfigError(f"{what} {path} is larger than {most >> 10} KiB", "a small file of text")
        return data
    except OSError as error:
        raise ConfigError(f"cannot read {what} {path}: {error.strerror or error}") from None


def require_utf8(text: str, what: str) -> None:
    """Check that a text can be written as UTF-8, as Kubeflow Pipelines demands. Names of files need not be UTF-8.

    Args:
        what: what the text is, for the error.

    Raises:
        ConfigError: it cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{what} is not UTF-8", "text in UTF-8", "if it names a file or folder, rename that"
        ) from None


def _check(text: str) -> None:
    """Refuse what makes loading slow, before it begins. Deep nesting would even crash the loader written in C.

    An alias (*) counts as the values that it stands for.
    """
    known: dict[str, tuple[int, int]] = {}  # number of values and depth of what has an anchor (&)
    levels: list[tuple[str | None, int, int]] = [(None, 0, 0)]  # anchor, number of values and depth of what is open
    total = 0
    for event in yaml.parse(text, BASE):
        if getattr(event, "tag", None):
            raise _problem("tags (!) are not supported", event)
        if isinstance(event, yaml.CollectionStartEvent):
            levels.append((event.anchor, 1, 1))
            anchor, values, depth = None, 0, 0
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, values, depth = levels.pop()
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in known:  # it would contain itself
                raise _problem(f"the alias *{event.anchor} does not follow a complete &{event.anchor}", event)
            anchor, (values, depth) = None, known[event.anchor]
            total += values
        elif isinstance(event, yaml.ScalarEvent):
            anchor, values, depth = event.anchor, 1 + len(event.value) // PIECE, 0
            total += values
        else:
            continue
        if anchor is not None:
            known[anchor] = values, depth
        if not isinstance(event, yaml.CollectionStartEvent):
            parent, held, inner = levels[-1]
            levels[-1] = parent, held + values, max(inner, depth + 1)
        if len(levels) - 1 + depth > DEEPEST:
            raise _problem("its lists and mappings are nested too deeply", event)
        if total > MOST_NODES:
            raise _problem(f"it has more than {MOST_NODES} values", event)


def _refuse_comments(text: str) -> None:
    """Refuse a # outside of the tokens of YAML."""
    end = 0
    for token in yaml.scan(text, BASE):
        if "#" in text[end : token.start_mark.index]:
            raise _problem("what follows # would be a comment; write a name with # in quotes", token)
        end = token.end_mark.index


class _Loader(BASE):
    """YAML 1.2's scalars, and no repeated keys."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML declares it
        first: [
            (f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern})$"))
            for tag, (pattern, firsts) in CORE.items()
            if first in firsts or (first == "" and tag == "null")
        ]
        for first in {*"".join(firsts for _, firsts in CORE.values()), ""}
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        known = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _problem("a key is a list or a mapping", key)
            if key.value in known:
                raise _problem(f"the key {key.value} appears twice", key)
            known.add(key.value)
        return super().construct_mapping(node, deep)


class _Texts(_Loader):
    """The same, with every scalar as its text."""

    yaml_implicit_resolvers = {}  # noqa: RUF012


def _problem(text: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=place.start_mark)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name!r} appears twice")
        found[name] = value
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text} is not finite")
    return number


def _reason(error: Exception) -> str:
    text = " ".join(str(getattr(error, "problem", None) or error).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
