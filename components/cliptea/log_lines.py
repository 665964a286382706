"""The lines of a log: text for people or, with CLIPTEA_LOG_FORMAT=json, one JSON object for each line."""

from __future__ import annotations

import json
import math
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import IO, Any, Literal, NamedTuple

from cliptea import env
from cliptea.errors import ConfigError
from cliptea.messages import plain, plain_lines

__all__ = ["Level", "Who", "as_json", "as_text", "choose_format", "json_line", "print_line", "tell"]

Level = Literal["info", "warning", "error"]
FORMATS = TEXT, JSON = "text", "json"


class Who(NamedTuple):
    """What a line is about. Empty values are not known."""

    step: str = ""
    label: str = ""  # of the variant
    run: str = ""  # id of the pipeline job

    @classmethod
    def present(cls) -> Who:
        """The step that this process works for."""
        return cls(*json.loads(env.STEP.get() or "[]"))

    @property
    def name(self) -> str:
        """Step and variant."""
        return f"{self.step} {self.label}".strip()


def choose_format(given: str | None = None) -> None:
    """Choose the format for this process and those that it starts.

    Args:
        given: the value of --log-format, which takes precedence over the variable.

    Raises:
        ConfigError: there is no such format.
    """
    value, name = (env.LOG_FORMAT.get(), env.LOG_FORMAT.name) if given is None else (given, "--log-format")
    if value not in ("", *FORMATS):
        raise ConfigError(f"{name} is {value!r}", " or ".join(FORMATS))
    if given is not None:
        env.LOG_FORMAT.set(given)


def as_json() -> bool:
    """Whether the format is JSON."""
    return env.LOG_FORMAT.get() == JSON


def json_line(level: Level, text: str, who: Who, **facts: Any) -> str:
    """A line of JSON with time, level, run, step, variant and message, followed by `facts`."""
    known = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "level": level,
        "run": who.run,
        "step": who.step,
        "variant": who.label,
        "message": plain(text),
    }
    return json.dumps(known | _valid(facts))


def tell(level: Level, text: str, who: Who | None = None, file: IO[str] | None = None, **facts: Any) -> None:
    """Print a line: "error: TEXT" and the like, the text alone for the level info, or JSON.

    Args:
        who: default: the step that this process works for. Only JSON shows it.
        file: default: stderr.
        facts: only JSON shows them.
    """
    if as_json():
        line = json_line(level, text.strip(), who or Who.present(), **facts)
    else:
        line = plain_lines(text if level == "info" else f"{level}: {text}")
    print_line(line, file)


def print_line(line: str, file: IO[str] | None = None) -> None:
    """Print a line to a file, or to stderr, in one write.

    So lines of several threads and processes do not mix. With PYTHONUNBUFFERED, as in our images, `print` writes the
    end of the line on its own.
    """
    print(f"{line}\n", end="", file=file or sys.stderr, flush=True)


def as_text(line: str) -> str:
    """A line of JSON as it would be in the format text. Other lines are returned as they are."""
    with suppress(ValueError, KeyError, TypeError):
        told = json.loads(line)
        who, text = Who(told["step"], told["variant"]), told["message"]
        of_step = "event" in told  # see `cliptea.progress`
        if told["level"] == "warning" or (told["level"] == "error" and not of_step):
            text = f"{told['level']}: {text}"
        return f"{who.name}: {text}" if of_step and who.name else text
    return line


def _valid(value: Any) -> Any:
    """The value without NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _valid(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
