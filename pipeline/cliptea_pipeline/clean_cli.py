"""The command `cliptea clean`."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from cliptea.errors import ConfigError
from cliptea.storage.local_files import local_path
from cliptea_pipeline.cluster_cli import Namespace
from cliptea_pipeline.options import Debug, one_line_errors, whole_number

__all__ = ["app", "seconds_of"]

app = typer.Typer()
UNITS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}  # seconds


@app.command("clean", rich_help_panel="Train")
def clean_(
    keep: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=whole_number("--keep", 0),
            help="Keep the newest N finished runs and everything that ended later.",
        ),
    ] = 1,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Keep all runs that ended less than AGE ago, for example 12h, 30d or 8w.")
    ] = "0h",
    yes: Annotated[bool, typer.Option("--yes", help="Delete. Without it, nothing is changed.")] = False,
    workdir: Annotated[
        str,
        typer.Option(
            metavar="FOLDER",
            help="Work directory to clean. If CLIPTEA_STORE or MLFLOW_TRACKING_URI is set, that store or "
            "server is used instead of its own.",
        ),
    ] = ".cliptea",
    endpoint: Annotated[
        str | None,
        typer.Option(
            help="Address of Kubeflow Pipelines. Defaults to KFP_ENDPOINT or KF_PIPELINES_ENDPOINT, also in a pod. "
            "Required if runs of a cluster have used the store."
        ),
    ] = None,
    namespace: Namespace = None,
    debug: Debug = False,
) -> None:
    """Show what earlier runs have left behind and nothing refers to any more, and delete it with --yes.

    This concerns shards, tokens, checkpoints, models and caches. What a running or scheduled run or the model
    registry refers to is always kept. Runs and models in MLflow are not changed.
    """
    with one_line_errors(debug):
        from cliptea_pipeline.clean import clean
        from cliptea_pipeline.endpoint import Endpoint
        from cliptea_pipeline.schedule import known_jobs
        from cliptea_pipeline.server_address import named

        seconds, root = seconds_of(older_than), local_path("--workdir", workdir)
        clean(root, keep, seconds, known_jobs(Endpoint(endpoint, namespace)) if named(endpoint) else None, yes)


def seconds_of(age: str) -> float:
    """The seconds of an age such as 12h, 30d or 8w.

    Raises:
        ConfigError: it has another form.
    """
    match = re.fullmatch(r"(\d{1,5})([hdw])", age)
    if match is None:
        raise ConfigError(f"cannot read --older-than {age!r}", "hours, days or weeks, for example 12h, 30d or 8w")
    return int(match[1]) * UNITS[match[2]]
