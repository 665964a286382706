"""Options that several commands share, and the way that all commands report errors and write JSON."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from cliptea.errors import ClipteaError, ConfigError, described
from cliptea.exit_codes import ExitCode
from cliptea.log_lines import as_json, choose_format, tell
from cliptea.messages import plain_lines, redacted
from cliptea.outage import patience
from cliptea_pipeline.extras import needing_extras

__all__ = [
    "AsJson", "ConfigFile", "Debug", "LogFormat", "Overrides", "Pipeline", "Preset", "choose_preset", "json_document",
    "one_line_errors", "whole_number",
]  # fmt: skip

Preset = Annotated[
    str | None, typer.Option("--preset", help="Preset to start from. Defaults to demo.", show_default=False)
]
ConfigFile = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Your own preset file, in place of --preset: a path or an s3:// address.",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a setting, for example train.iterations=200. Can be repeated."
    ),
]
Pipeline = Annotated[
    Path | None, typer.Option("--pipeline", help="Compiled pipeline file. Defaults to the one that cliptea includes.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")]
LogFormat = Annotated[
    str | None,
    typer.Option(
        "--log-format",
        metavar="text|json",
        help="Format of the log: text, or json for one JSON object in each line. Defaults to CLIPTEA_LOG_FORMAT, and "
        "else to text.",
        show_default=False,
    ),
]

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout. Everything else goes to stderr.")
]


def whole_number(option: str, least: int, most: int | None = None) -> Callable[[str], int]:
    """Parser of an option's value. It ends the command with one line if the value is not a number from least to most.

    Args:
        option: its name, such as --workers.
        most: None: no limit.
    """
    expected = f"a whole number from {least} to {most}" if most else f"a whole number of {least} or more"

    def parse(text: str) -> int:
        digits = str(text).removeprefix("-")
        short = len(digits) <= 18  # Python refuses to convert thousands of digits
        if (
            short
            and digits.isascii()
            and digits.isdecimal()
            and least <= (value := int(text))
            and (most is None or value <= most)
        ):
            return value
        tell("error", str(ConfigError(f"cannot use {option} {text[:20]}", expected)))
        raise typer.Exit(ExitCode.REJECTED)

    return parse


def choose_preset(preset: str | None, file: str | None) -> tuple[str, str]:
    """The name of the preset, and its text if it is a file on this machine.

    A file in S3 is read by whoever loads the settings. So a schedule follows its changes.

    Args:
        preset, file: the values of --preset and --config.

    Raises:
        ConfigError: both are given, or the file cannot be read.
    """
    if file is None:
        return preset or "demo", ""
    if preset is not None:
        raise ConfigError(
            "--preset and --config are both given", "one of them", "name the preset in the file, such as preset: voc12"
        )
    from cliptea.parse import require_utf8
    from cliptea.preset_files import read_preset
    from cliptea.storage import is_remote

    require_utf8(file, "the name of --config")

    return (file, "") if is_remote(file) else (Path(file).name, read_preset(file))


@contextmanager
def one_line_errors(debug: bool, log_format: str | None = None) -> Iterator[None]:
    """Report an error of the block in one line, and end the command with an `ExitCode`.

    The code is REJECTED for a ConfigError, INTERRUPTED after Ctrl-C, and FAILED for all other errors.

    Args:
        debug: also show the traceback.
        log_format: how lines are written, see `log_lines.choose_format`; None: as CLIPTEA_LOG_FORMAT says.

    Raises:
        typer.Exit: the block failed, or has raised it itself.
    """
    try:
        choose_format(log_format)
        patience()  # raises here if it is invalid: later callers may suppress errors
        with needing_extras():
            yield
    except ClipteaError as error:
        _tell(error, str(error), debug)
        raise typer.Exit(ExitCode.REJECTED if isinstance(error, ConfigError) else ExitCode.FAILED) from None
    except KeyboardInterrupt:
        tell("info", "stopped")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except Exception as error:
        if isinstance(error, typer.Exit):
            raise
        _tell(error, described(error) if debug else f"{described(error)}; add --debug to see the traceback", debug)
        raise typer.Exit(ExitCode.FAILED) from None


def _tell(error: Exception, text: str, debug: bool) -> None:
    """Report an error, with its traceback if `debug` is set. Neither shows secrets."""
    if not debug:
        tell("error", text)
        return
    trace = redacted("".join(traceback.format_exception(error)))
    if not as_json():  # whose line has it
        print(plain_lines(trace), file=sys.stderr)
    tell("error", text, trace=trace)


@contextmanager
def json_document(wanted: bool) -> Iterator[dict[str, Any]]:
    """A result for the block to fill, which is printed on stdout at its end, also after an error.

    Args:
        wanted: if not, nothing is printed here. Otherwise, all that the block prints goes to stderr.
    """
    document: dict[str, Any] = {}
    try:
        with redirect_stdout(sys.stderr) if wanted else nullcontext():
            yield document
    finally:
        if wanted and document:
            print(json.dumps(document, indent=2, allow_nan=False), flush=True)
