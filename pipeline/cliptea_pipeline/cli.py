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
    image: Annotated[str | None, typer.Option(help="Container image of the steps; wins over the placement's.")] = None,
    placement: Annotated[Path | None, typer.Option(help="YAML file: image, store, resources, launcher, ...")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only look whether the file is stale.")] = False,
    debug: Debug = False,
) -> None:
    """Write the pipeline that Kubeflow runs."""
    with _one_line_errors(debug):
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
    with _one_line_errors(debug):
        from cliptea_pipeline import serving

        raise typer.Exit(serving.predict(images, model, classes, text_weights, output, workdir))


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
    with _one_line_errors(debug):
        from cliptea_pipeline import serving

        serving.export(model, output, size, workdir)


@app.command()
def rollback(
    model: Annotated[str, typer.Option("--model", help="A registered model, as in cliptea-demo.")],
    workdir: Home = Path(".cliptea"),
    debug: Debug = False,
) -> None:
    """Make the champion before the present one the champion again."""
    with _one_line_errors(debug):
        from cliptea_pipeline import serving

        serving.rollback(model, workdir)


Kfp = Annotated[str | None, typer.Option("--endpoint", help="Kubeflow Pipelines; default: KFP_ENDPOINT.")]
Namespace = Annotated[
    str | None, typer.Option("--namespace", help="Of the steps, and of KFP's users where it has any.")
]
Pipeline = Annotated[Path | None, typer.Option("--pipeline", help="Compiled pipeline; default: the one shipped.")]
Experiment = Annotated[str, typer.Option("--experiment", help="KFP's experiment; made if there is none.")]


@app.command()
def submit(
    preset: Preset = "demo",
    overrides: Overrides = None,
    endpoint: Kfp = None,
    namespace: Namespace = None,
    experiment: Experiment = "cliptea",
    pipeline: Pipeline = None,
    skip_unchanged: Annotated[
        bool, typer.Option("--skip-unchanged", help="End early when neither data nor settings have changed.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run, and exit with its state.")] = False,
    debug: Debug = False,
) -> None:
    """Run the pipeline on a cluster."""
    with _one_line_errors(debug):
        from cliptea_pipeline import submit as submitting
        from cliptea_pipeline.endpoint import Endpoint

        given = submitting.parameters(preset, overrides or [], skip_unchanged, pipeline)
        server = Endpoint(endpoint, namespace)
        run_id = submitting.submit(server, given, experiment, pipeline)
        if wait:
            raise typer.Exit(submitting.wait(server, run_id))


@app.command()
def schedule(
    cron: Annotated[
        str | None, typer.Option(help="Six fields, seconds first: '0 0 3 * * 0' is Sundays at three.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the schedule; default: cliptea-PRESET.")] = None,
    preset: Preset = "demo",
    overrides: Overrides = None,
    show: Annotated[bool, typer.Option("--list", help="List the schedules.")] = False,
    pause: Annotated[str | None, typer.Option(metavar="NAME", help="Start no more runs.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="NAME", help="Start runs again.")] = None,
    delete: Annotated[str | None, typer.Option(metavar="NAME", help="Delete a schedule; its runs stay.")] = None,
    always: Annotated[bool, typer.Option("--always", help="Run also when neither data nor settings changed.")] = False,
    endpoint: Kfp = None,
    namespace: Namespace = None,
    experiment: Experiment = "cliptea",
    pipeline: Pipeline = None,
    debug: Debug = False,
) -> None:
    """Retrain regularly on a cluster, in the time zone of KFP's controller; unchanged data are skipped."""
    with _one_line_errors(debug):
        from cliptea_pipeline import schedule as scheduling
        from cliptea_pipeline import submit as submitting
        from cliptea_pipeline.endpoint import Endpoint

        asked = [bool(part) for part in (cron, show, pause, resume, delete)]
        if sum(asked) != 1:
            raise ConfigError(
                f"{sum(asked)} things are asked for", "one of --cron, --list, --pause, --resume, --delete"
            )
        if cron:
            cron = cron.strip()
            scheduling.require_cron(cron)
            given = submitting.parameters(preset, overrides or [], not always, pipeline)
            chosen = name or f"cliptea-{preset}"
            scheduling.create(Endpoint(endpoint, namespace), chosen, cron, given, experiment, pipeline)
            print(f"schedule {chosen}: {cron}, in the time zone of KFP's controller, which is UTC unless set otherwise")
            return
        server = Endpoint(endpoint, namespace)
        acts = {"paused": (scheduling.pause, pause), "resumed": (scheduling.resume, resume)}
        for done, (act, which) in (acts | {"deleted": (scheduling.delete, delete)}).items():
            if which:
                act(server, which)
                print(f"{done} the schedule {which}")
        if show:
            schedules = scheduling.listed(server)
            for item in schedules:
                print(f"{item.name}\t{item.state}\t{item.cron}\tpreset {item.preset}")
            if not schedules:
                print("no schedules", file=sys.stderr)


@app.command()
def doctor(
    placement: Annotated[Path | None, typer.Option(help="The file that the pipeline is compiled with.")] = None,
    endpoint: Kfp = None,
    namespace: Namespace = None,
    debug: Debug = False,
) -> None:
    """Say what a run on a cluster would find: ok, missing or cannot tell, and what to do."""
    with _one_line_errors(debug):
        from cliptea_pipeline import doctor as examining
        from cliptea_pipeline.placement_file import read_placement

        raise typer.Exit(examining.doctor(read_placement(placement), endpoint, namespace))


if __name__ == "__main__":
    app()
