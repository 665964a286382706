"""The commands about MLflow: the registry of models, and its user interface."""

from __future__ import annotations

import os
import re
import sys
from typing import Annotated

import typer

from cliptea.errors import ConfigError
from cliptea.messages import plain
from cliptea.model_address import CHAMPION
from cliptea.storage.local_files import local_path
from cliptea.tracking.address import EXPERIMENT
from cliptea.tracking.database import stored_experiment_id
from cliptea.tracking.first_view import view_page
from cliptea_pipeline.extras import require
from cliptea_pipeline.mlflow_database import find_database
from cliptea_pipeline.opening import find_tracking
from cliptea_pipeline.options import Debug, one_line_errors, whole_number
from cliptea_pipeline.serving_cli import Home

__all__ = ["app"]

app = typer.Typer()


@app.command(rich_help_panel="Use models")
def rollback(
    model: Annotated[str, typer.Option("--model", help="Name of a registered model, for example cliptea-demo.")],
    workdir: Home = ".cliptea",
    debug: Debug = False,
) -> None:
    """Restore the previous champion of a registered model."""
    with one_line_errors(debug):
        match = re.fullmatch(r"(?:models:/)?([^/:@]+)(?:@champion)?", model)
        if match is None:
            raise ConfigError(
                f"--model {model} is not a model name", "the name of a registered model, for example cliptea-demo"
            )
        name = match[1]
        find_tracking(local_path("--workdir", workdir))
        from cliptea.tracking.mlflow_client import connect
        from cliptea.tracking.registry import rollback as roll_back

        was, now = roll_back(connect(), name)
        print(f"{plain(name)}: the {CHAMPION} is version {now} again, and no longer version {was}")


@app.command(rich_help_panel="Use models")
def ui(
    workdir: Annotated[
        str,
        typer.Option(
            metavar="FOLDER", help="Work directory whose MLflow to open. MLFLOW_TRACKING_URI is ignored here."
        ),
    ] = ".cliptea",
    port: Annotated[
        int,
        typer.Option(metavar="N", parser=whole_number("--port", 1, 65535), help="Port of this machine to listen on."),
    ] = 5000,
    debug: Debug = False,
) -> None:
    """Open MLflow with the runs of a work directory, until you press Ctrl-C."""
    with one_line_errors(debug):
        require("mlflow")
        file = find_database(local_path("--workdir", workdir))
        if experiment := stored_experiment_id(file, EXPERIMENT):
            page = f"http://localhost:{port}/{view_page(experiment)}"
            print(f"all runs, the highest hIoU first, once MLflow has started: {page}", flush=True)
        os.chdir(file.parent)  # a relative address needs no escapes, which MLflow's server does not decode
        address = f"sqlite:///{file.name}"
        command = [sys.executable, "-P", "-m", "mlflow", "ui", "--backend-store-uri", address, "--port", str(port)]
        os.execv(sys.executable, command)
