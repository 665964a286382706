"""Options that several commands have, and how all of them tell what went wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cliptea.errors import ClipteaError, ConfigError
from cliptea.outage import patience

__all__ = ["Debug", "Overrides", "Pipeline", "Preset", "one_line_errors"]

Preset = Annotated[str, typer.Option("--preset", help="Named settings to start from.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, as in train.iterations=200."),
]
Pipeline = Annotated[Path | None, typer.Option("--pipeline", help="Compiled pipeline; default: the one shipped.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


@contextmanager
def one_line_errors(debug: bool) -> Iterator[None]:
    try:
        patience()  # refused here, before anybody who asks for it suppresses errors
        yield
    except ClipteaError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise typer.Exit(130) from None
    except Exception as error:
        if debug or isinstance(error, typer.Exit):
            raise
        text = " ".join(str(error).split())
        print(f"error: {type(error).__name__}: {text}; add --debug for the traceback", file=sys.stderr)
        raise typer.Exit(1) from None
