"""The command `cliptea`. What a command needs is imported inside it, so that help comes at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cliptea import __version__
from cliptea.errors import ClipteaError, ConfigError

__all__ = ["app"]

app = typer.Typer(
    help="CLIPTeacher as a pipeline: zero-shot segmentation by distilling CLIP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Preset = Annotated[str, typer.Option("--preset", help="Named settings to start from.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, as in train.iterations=200."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


@contextmanager
def _one_line_errors(debug: bool) -> Iterator[None]:
    try:
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


def _version(wanted: bool) -> None:
    if wanted:
        print(f"cliptea {__version__}")
        raise typer.Exit()


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    preset: Preset = "demo",
    overrides: Overrides = None,
    workdir: Annotated[Path, typer.Option(help="Where everything goes; the next run finds it there.")] = Path(
        ".cliptea"
    ),
    debug: Debug = False,
) -> None:
    """Run the whole pipeline on this machine; what an earlier run has made is used again."""
    with _one_line_errors(debug):
        from cliptea_pipeline import local

        raise typer.Exit(local.run(preset, overrides or [], workdir, debug))


@app.command("compile")
def compile_(
    image: Annotated[str | None, typer.Option(help="Container image of the steps.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only look whether the file is stale.")] = False,
    debug: Debug = False,
) -> None:
    """Write the pipeline that Kubeflow runs."""
    with _one_line_errors(debug):
        from cliptea.steps.common import IMAGE
        from cliptea_pipeline.compile import check_pipeline, compile_pipeline

        if check:
            print(f"{check_pipeline(image or IMAGE, output)} is current")
        else:
            print(f"wrote {compile_pipeline(image or IMAGE, output)}")


@app.command()
def config(preset: Preset = "demo", overrides: Overrides = None, debug: Debug = False) -> None:
    """Print the settings that a run would use, in full."""
    with _one_line_errors(debug):
        import yaml

        from cliptea import settings

        resolved = settings.load(preset, overrides or []).model_dump(mode="json")
        print(yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True), end="")


@app.command()
def plan(
    preset: Preset = "demo",
    overrides: Overrides = None,
    throughput: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="Measured images per second of a backbone's training, or of teacher."),
    ] = None,
    benchmark: Annotated[Path | None, typer.Option(help="A file of such measurements.")] = None,
    debug: Debug = False,
) -> None:
    """Say what a run would cost and what it lacks, without touching data."""
    with _one_line_errors(debug):
        from rich.console import Console

        from cliptea import settings
        from cliptea.plan import make_plan, read_rates
        from cliptea_pipeline.planning import show_plan

        rates = read_rates(benchmark, throughput or [])
        resolved = settings.load(preset, overrides or [])
        show_plan(Console(highlight=False), resolved, make_plan(resolved, rates))


if __name__ == "__main__":
    app()
