"""The command `cliptea`. Each command imports what it needs when it runs, so that `--help` is fast."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from cliptea import __version__
from cliptea.errors import ConfigError
from cliptea.storage.local_files import local_path
from cliptea_pipeline import clean_cli, cluster_cli, data_cli, evaluate_cli, export_cli, mlflow_cli, serving_cli
from cliptea_pipeline.options import (
    AsJson,
    ConfigFile,
    Debug,
    LogFormat,
    Overrides,
    Pipeline,
    Preset,
    choose_preset,
    json_document,
    one_line_errors,
)

__all__ = ["app"]

app = typer.Typer(
    help="Train zero-shot segmentation models by distilling CLIP, on this machine or with Kubeflow Pipelines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"cliptea {__version__}")
        raise typer.Exit()


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    for stream in (sys.stdout, sys.stderr):  # names of files may not be UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@app.command(rich_help_panel="Train")
def run(
    preset: Preset = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workdir: Annotated[
        str, typer.Option(metavar="FOLDER", help="Folder for everything that the run produces. Later runs reuse it.")
    ] = ".cliptea",
    log_format: LogFormat = None,
    debug: Debug = False,
) -> None:
    """Run the whole pipeline on this machine, reusing the results of earlier runs."""
    with one_line_errors(debug, log_format):
        from cliptea_pipeline import local

        chosen, text = choose_preset(preset, config_file)
        raise typer.Exit(local.run(chosen, overrides or [], local_path("--workdir", workdir), debug, text))


@app.command("compile", rich_help_panel="Run on a cluster")
def compile_(
    image: Annotated[
        str | None, typer.Option(help="Container image for the steps. Overrides the image in the placement file.")
    ] = None,
    placement: Annotated[
        Path | None, typer.Option(help="YAML file with the image, store, resources, launcher and more.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="File to write the pipeline to. Defaults to pipeline/cliptea.yaml in a checkout, and else to "
            "cliptea.yaml. Required with --image or --placement.",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check whether the file is up to date, without writing it.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Compile the pipeline into a file for Kubeflow Pipelines."""
    with one_line_errors(debug):
        from cliptea_pipeline.compile import check_pipeline, compile_pipeline
        from cliptea_pipeline.placement_file import read_placement

        if output is None and not check and (image or placement):
            raise ConfigError(
                "--image and --placement create a custom pipeline, and no file to write it to is given",
                "-o FILE",
            )
        file = None if output is None else local_path("-o", output)
        chosen = read_placement(placement)
        if image is not None:
            chosen = chosen.model_copy(update={"image": image})
        if check:
            print(f"{check_pipeline(chosen, file)} is current")
        else:
            print(f"wrote {compile_pipeline(chosen, file)}")


@app.command(rich_help_panel="Train")
def config(
    preset: Preset = None, config_file: ConfigFile = None, overrides: Overrides = None, debug: Debug = False
) -> None:
    """Print every setting that a run would use, as YAML."""
    with one_line_errors(debug):
        import yaml

        from cliptea import settings

        chosen, text = choose_preset(preset, config_file)
        resolved = settings.load(chosen, overrides or [], text).model_dump(mode="json")
        text = yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True)
        if not text.replace("\n", "").isprintable():  # as escapes, which YAML has for all characters
            text = yaml.safe_dump(resolved, sort_keys=False)
        print(text, end="")


@app.command(rich_help_panel="Train")
def plan(
    preset: Preset = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    throughput: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER",
            help="Measured images per second on one GPU, for a backbone or for the teacher, for example "
            "segformer_b4=40 or teacher=150. Can be repeated.",
        ),
    ] = None,
    benchmark: Annotated[
        Path | None, typer.Option(help="File with measured images per second, as written by `make bench`.")
    ] = None,
    pipeline: Pipeline = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Estimate the cost of a run and list what is missing, without reading any data."""
    with one_line_errors(debug), json_document(as_json) as document:
        from rich.console import Console

        from cliptea import settings
        from cliptea.plan import make_plan, read_rates
        from cliptea_pipeline.compile import pipeline_file
        from cliptea_pipeline.fit import read_compiled
        from cliptea_pipeline.planning import show_plan

        rates = read_rates(benchmark, throughput or [])
        chosen, text = choose_preset(preset, config_file)
        resolved = settings.load(chosen, overrides or [], text)
        room = read_compiled(pipeline or pipeline_file()).room
        made = make_plan(resolved, rates)
        made.require_used(item.partition("=")[0] for item in throughput or [])  # a file may have more
        runs = -(-made.trainings // room)
        document.update(made.model_dump() | {"gpu_hours": made.gpu_hours, "room": room, "runs": runs})
        show_plan(Console(highlight=False), resolved, made, room)


app.add_typer(clean_cli.app)
app.add_typer(data_cli.app, name="data", rich_help_panel="Train")
app.add_typer(serving_cli.app)
app.add_typer(export_cli.app)
app.add_typer(mlflow_cli.app)
app.add_typer(evaluate_cli.app)
app.add_typer(cluster_cli.app)

if __name__ == "__main__":
    app()
