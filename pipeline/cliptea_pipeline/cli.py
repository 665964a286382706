"""The command `cliptea`. What a command needs is imported inside it, so that help comes at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cliptea import __version__
from cliptea.errors import ConfigError
from cliptea_pipeline import cluster_cli
from cliptea_pipeline.options import Debug, Overrides, Pipeline, Preset, one_line_errors

__all__ = ["app"]

app = typer.Typer(
    help="CLIPTeacher as a pipeline: zero-shot segmentation by distilling CLIP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
    with one_line_errors(debug):
        from cliptea_pipeline import local

        raise typer.Exit(local.run(preset, overrides or [], workdir, debug))


@app.command("compile")
def compile_(
    image: Annotated[str | None, typer.Option(help="Container image of the steps; wins over the placement's.")] = None,
    placement: Annotated[Path | None, typer.Option(help="YAML file: image, store, resources, launcher, ...")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only look whether the file is stale.")] = False,
    debug: Debug = False,
) -> None:
    """Write the pipeline that Kubeflow runs."""
    with one_line_errors(debug):
        from cliptea_pipeline.compile import check_pipeline, compile_pipeline
        from cliptea_pipeline.placement_file import read_placement

        if output is None and not check and (image or placement):
            raise ConfigError(
                "--image and --placement make another pipeline than the shipped one", "a file for it, by -o"
            )
        chosen = read_placement(placement)
        if image is not None:
            chosen = chosen.model_copy(update={"image": image})
        if check:
            print(f"{check_pipeline(chosen, output)} is current")
        else:
            print(f"wrote {compile_pipeline(chosen, output)}")


@app.command()
def config(preset: Preset = "demo", overrides: Overrides = None, debug: Debug = False) -> None:
    """Print the settings that a run would use, in full."""
    with one_line_errors(debug):
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
    pipeline: Pipeline = None,
    debug: Debug = False,
) -> None:
    """Say what a run would cost and what it lacks, without touching data."""
    with one_line_errors(debug):
        from rich.console import Console

        from cliptea import settings
        from cliptea.plan import make_plan, read_rates
        from cliptea.run import require_room
        from cliptea_pipeline.compile import pipeline_file
        from cliptea_pipeline.fit import read_compiled
        from cliptea_pipeline.planning import show_plan

        rates = read_rates(benchmark, throughput or [])
        resolved = settings.load(preset, overrides or [])
        room = read_compiled(pipeline or pipeline_file()).room
        made = make_plan(resolved, rates)
        show_plan(Console(highlight=False), resolved, made, room)
        require_room(made.trainings, room)


Model = Annotated[str, typer.Option("--model", help="models:/NAME@champion, runs:/ID/model or a folder.")]
Home = Annotated[
    Path,
    typer.Option("--workdir", help="Of the run whose models are meant, unless MLFLOW_TRACKING_URI names a server."),
]


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Files and folders.", show_default=False)],
    model: Model,
    classes: Annotated[str | None, typer.Option(help="Names as in 'cat, dog, my sofa'; default: the model's.")] = None,
    text_weights: Annotated[
        str | None, typer.Option(help="CLIP weights for names that the model does not know; default: its teacher's.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")] = Path("predictions"),
    workdir: Home = Path(".cliptea"),
    debug: Debug = False,
) -> None:
    """Write masks, overlays and areas of images, also under class names that nobody trained."""
    with one_line_errors(debug):
        from cliptea_pipeline import serving_cli

        raise typer.Exit(serving_cli.predict(images, model, classes, text_weights, output, workdir))


@app.command()
def export(
    model: Model,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, as in student.onnx.")],
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="The only size to take; default: any, where the network can.")
    ] = None,
    workdir: Home = Path(".cliptea"),
    debug: Debug = False,
) -> None:
    """Write a model as ONNX, with the class embeddings as an input, checked against torch."""
    with one_line_errors(debug):
        from cliptea_pipeline import serving_cli

        serving_cli.export(model, output, size, workdir)


@app.command()
def rollback(
    model: Annotated[str, typer.Option("--model", help="A registered model, as in cliptea-demo.")],
    workdir: Home = Path(".cliptea"),
    debug: Debug = False,
) -> None:
    """Make the champion before the present one the champion again."""
    with one_line_errors(debug):
        from cliptea_pipeline import serving_cli

        serving_cli.rollback(model, workdir)


app.add_typer(cluster_cli.app)

if __name__ == "__main__":
    app()
