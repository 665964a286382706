"""The commands of `cliptea` that talk to a cluster."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cliptea.errors import ConfigError
from cliptea.exit_codes import ExitCode
from cliptea.log_lines import tell
from cliptea.messages import plain
from cliptea.parse import require_utf8
from cliptea.parts import Part, numbers_of
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
    whole_number,
)

if TYPE_CHECKING:
    from cliptea_pipeline.endpoint import Endpoint

__all__ = ["app"]

app = typer.Typer()

Kfp = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        help="Address of Kubeflow Pipelines. Defaults to KFP_ENDPOINT or KF_PIPELINES_ENDPOINT, and in a pod to the "
        "server of its cluster.",
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        help="Kubernetes namespace of the steps. Required if Kubeflow Pipelines is in multi-user mode. Defaults to "
        "KFP_NAMESPACE, and in a pod to the namespace that the server of its cluster uses.",
    ),
]
Experiment = Annotated[
    str, typer.Option("--experiment", help="Experiment in Kubeflow Pipelines. Created if it does not exist.")
]


@app.command(rich_help_panel="Run on a cluster")
def submit(
    preset: Preset = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    endpoint: Kfp = None,
    namespace: Namespace = None,
    experiment: Experiment = "cliptea",
    pipeline: Pipeline = None,
    skip_unchanged: Annotated[
        bool,
        typer.Option(
            "--skip-unchanged",
            help="End early if neither data, settings, weights nor the version of a step have changed.",
        ),
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the run until it ends, and exit with a code for its result.")
    ] = False,
    split: Annotated[
        int | None,
        typer.Option(
            "--split",
            metavar="N",
            parser=whole_number("--split", 1),
            help="Divide the students among this many runs with one comparison. The runs start one after another, and "
            "the command follows each as with --wait.",
            show_default=False,
        ),
    ] = None,
    parts: Annotated[
        str | None,
        typer.Option(
            "--parts",
            metavar="LIST",
            help="Submit only these parts of --split, for example 2,4-50.",
            show_default=False,
        ),
    ] = None,
    log_format: LogFormat = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Start a run of the pipeline on a cluster."""
    with one_line_errors(debug, log_format), json_document(as_json) as document:
        from cliptea_pipeline import submit as submitting
        from cliptea_pipeline import watch
        from cliptea_pipeline.endpoint import Endpoint
        from cliptea_pipeline.looks import run_page
        from cliptea_pipeline.submit_parts import submit_parts

        _require_utf8(namespace=namespace, experiment=experiment)
        if parts is not None and split is None:
            raise ConfigError("--parts is given without --split", "--split N, as when they were submitted first")
        numbers = range(1, (split or 1) + 1) if parts is None else numbers_of(parts, split or 1)
        chosen, text = choose_preset(preset, config_file)
        given = submitting.parameters(chosen, overrides or [], skip_unchanged, pipeline, text, split or 1)
        server = Endpoint(endpoint, namespace)
        if split is not None:
            shares = [Part(number, split) for number in numbers]
            code = submit_parts(server, given, shares, document, experiment, pipeline)
            if code != ExitCode.INTERRUPTED:
                _sweep(server)
            raise typer.Exit(code)
        run_id = submitting.submit(server, given, experiment, pipeline)
        document.update({"run": run_id, "address": run_page(server, run_id) or None})
        if wait:
            document["state"] = "RUNNING"  # also if watching it fails
            code = watch.wait(server, run_id, submitting.store(pipeline))
            document["state"] = watch.state_of(code)
            if code != ExitCode.INTERRUPTED:
                _sweep(server)
            raise typer.Exit(code)


@app.command(rich_help_panel="Run on a cluster")
def cancel(
    run: Annotated[
        str, typer.Argument(help="ID of the run, or the address that `cliptea submit` printed.", show_default=False)
    ],
    endpoint: Kfp = None,
    namespace: Namespace = None,
    debug: Debug = False,
) -> None:
    """Cancel a run on a cluster, including its TrainJobs and its MLflow runs."""
    with one_line_errors(debug):
        from cliptea_pipeline import cancel as cancelling
        from cliptea_pipeline.endpoint import Endpoint
        from cliptea_pipeline.server_address import of_page

        _require_utf8(namespace=namespace)
        require_utf8(run, "the run")
        run_id, page = cancelling.parse(run)
        raise typer.Exit(cancelling.cancel(Endpoint(of_page(endpoint, page), namespace), run_id))


@app.command(rich_help_panel="Run on a cluster")
def schedule(
    cron: Annotated[
        str | None,
        typer.Option(
            help="Create a schedule. Cron expression of six fields, seconds first: '0 0 3 * * 0' means Sundays at "
            "3 am. Or @daily, @weekly, @every 12h."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name for the new schedule. Defaults to cliptea-PRESET.", show_default=False)
    ] = None,
    preset: Preset = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    show: Annotated[bool, typer.Option("--list", help="List the schedules.")] = False,
    pause: Annotated[str | None, typer.Option(metavar="NAME", help="Pause a schedule.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="NAME", help="Resume a paused schedule.")] = None,
    delete: Annotated[str | None, typer.Option(metavar="NAME", help="Delete a schedule. Its runs are kept.")] = None,
    always: Annotated[
        bool,
        typer.Option(
            "--always", help="Train even if neither data, settings, weights nor the version of a step have changed."
        ),
    ] = False,
    endpoint: Kfp = None,
    namespace: Namespace = None,
    experiment: Experiment = "cliptea",
    pipeline: Pipeline = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Retrain regularly on a cluster, and manage the schedules.

    Scheduled runs end early if neither data, settings, weights nor the version of a step have changed. Times are in the
    time zone of the Kubeflow Pipelines controller, which is UTC by default. All schedules run the newest upload of the
    pipeline.
    """
    with one_line_errors(debug), json_document(as_json) as document:
        from cliptea_pipeline import schedule as scheduling
        from cliptea_pipeline import submit as submitting
        from cliptea_pipeline.endpoint import Endpoint

        names = {"name": name, "pause": pause, "resume": resume, "delete": delete}
        _require_utf8(namespace=namespace, experiment=experiment, **names)
        asked = sum(map(bool, (cron, show, pause, resume, delete)))
        choice = "one of --cron, --list, --pause, --resume, --delete"
        if asked == 0:
            raise ConfigError("no action is given", choice)
        if asked > 1:
            raise ConfigError(f"{asked} actions are given, and only one is allowed", choice)
        if as_json and not show:
            raise ConfigError("--json is only for --list", "schedule --list --json")
        if cron:
            cron = cron.strip()
            scheduling.require_cron(cron)
            source, text = choose_preset(preset, config_file)
            given = submitting.parameters(source, overrides or [], not always, pipeline, text)
            chosen = name or f"cliptea-{Path(source).name}"
            scheduling.create(Endpoint(endpoint, namespace), chosen, cron, given, experiment, pipeline)
            print(
                f"created the schedule {plain(chosen)}: {plain(cron)}, in the time zone of the Kubeflow Pipelines "
                "controller (UTC by default)"
            )
            return
        server = Endpoint(endpoint, namespace)
        for action, done, which in (
            ("disable", "paused", pause),
            ("enable", "resumed", resume),
            ("delete", "deleted", delete),
        ):
            if which:
                scheduling.change(server, which, action)
                print(f"{done} the schedule {plain(which)}")
        if show:
            schedules = scheduling.listed(server)
            document["schedules"] = [item._asdict() for item in schedules]
            for item in schedules:
                print("\t".join(map(plain, (item.name, item.state, item.cron, f"preset {item.preset}"))))
            if not schedules:
                print("no schedules", file=sys.stderr)
            sys.stdout.flush()
            _sweep(server)


@app.command(rich_help_panel="Run on a cluster")
def doctor(
    placement: Annotated[Path | None, typer.Option(help="Placement file that the pipeline was compiled with.")] = None,
    endpoint: Kfp = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check that a cluster is ready for runs, and explain how to fix what is not."""
    with one_line_errors(debug), json_document(as_json) as document:
        from cliptea_pipeline import doctor as examining
        from cliptea_pipeline.placement_file import read_placement

        found = examining.doctor(read_placement(placement), endpoint, namespace)
        document.update(examining.document(found))
        raise typer.Exit(examining.code(found))


def _require_utf8(**options: str | None) -> None:
    for option, value in options.items():
        require_utf8(value or "", f"the value of --{option}")


def _sweep(server: Endpoint) -> None:
    """Tidy up after earlier runs. After Ctrl-C, the next command does it."""
    from cliptea_pipeline import closing

    with suppress(KeyboardInterrupt):
        for line in closing.sweep(server):
            tell("info", f"note: {line}")
