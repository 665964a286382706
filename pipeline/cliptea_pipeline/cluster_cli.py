"""The commands of `cliptea` that speak to a cluster."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cliptea.errors import ConfigError
from cliptea_pipeline.options import Debug, Overrides, Pipeline, Preset, one_line_errors

if TYPE_CHECKING:
    from cliptea_pipeline.endpoint import Endpoint

__all__ = ["app"]

app = typer.Typer()

Kfp = Annotated[str | None, typer.Option("--endpoint", help="Kubeflow Pipelines; default: KFP_ENDPOINT.")]
Namespace = Annotated[
    str | None, typer.Option("--namespace", help="Of the steps, and of KFP's users where it has any.")
]
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
    with one_line_errors(debug):
        from cliptea_pipeline import submit as submitting
        from cliptea_pipeline import watch
        from cliptea_pipeline.endpoint import Endpoint

        given = submitting.parameters(preset, overrides or [], skip_unchanged, pipeline)
        server = Endpoint(endpoint, namespace)
        run_id = submitting.submit(server, given, experiment, pipeline)
        if wait:
            code = watch.wait(server, run_id, submitting.store(pipeline))
            if code != watch.STOPPED:
                _sweep(server)
            raise typer.Exit(code)


@app.command()
def cancel(
    run: Annotated[str, typer.Argument(help="Its id, or the address that submit printed.", show_default=False)],
    endpoint: Kfp = None,
    namespace: Namespace = None,
    debug: Debug = False,
) -> None:
    """End a run on a cluster, with its TrainJobs and its runs in MLflow."""
    with one_line_errors(debug):
        from cliptea_pipeline import cancel as cancelling
        from cliptea_pipeline.endpoint import Endpoint

        run_id, server = cancelling.parse(run)
        raise typer.Exit(cancelling.cancel(Endpoint(endpoint or server, namespace), run_id))


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
    with one_line_errors(debug):
        from cliptea_pipeline import schedule as scheduling
        from cliptea_pipeline import submit as submitting
        from cliptea_pipeline.endpoint import Endpoint

        asked = sum(map(bool, (cron, show, pause, resume, delete)))
        choice = "one of --cron, --list, --pause, --resume, --delete"
        if asked == 0:
            raise ConfigError(f"say what to do: {choice}")
        if asked > 1:
            raise ConfigError(f"{asked} things are asked for", choice)
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
            sys.stdout.flush()
            _sweep(server)


@app.command()
def doctor(
    placement: Annotated[Path | None, typer.Option(help="The file that the pipeline is compiled with.")] = None,
    endpoint: Kfp = None,
    namespace: Namespace = None,
    debug: Debug = False,
) -> None:
    """Say what a run on a cluster would find: ok, missing or cannot tell, and what to do."""
    with one_line_errors(debug):
        from cliptea_pipeline import doctor as examining
        from cliptea_pipeline.placement_file import read_placement

        raise typer.Exit(examining.doctor(read_placement(placement), endpoint, namespace))


def _sweep(server: Endpoint) -> None:
    """Tidy up after earlier runs; Ctrl-C leaves that to whoever looks next."""
    from cliptea_pipeline import closing

    with suppress(KeyboardInterrupt):
        for line in closing.sweep(server):
            print(f"note: {line}", file=sys.stderr)
