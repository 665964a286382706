"""`cliptea submit`: one run of the pipeline on a cluster."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cliptea import settings
from cliptea.progress import clock
from cliptea_pipeline.compile import pipeline_file
from cliptea_pipeline.endpoint import Away, Endpoint
from cliptea_pipeline.fit import check_fit, read_compiled

__all__ = ["parameters", "submit", "wait", "warn_of_image"]

POLL_SECONDS = 10.0
OUTAGE_SECONDS = 900.0  # the server may be away; the run goes on without us
ENDED = {"SUCCEEDED": 0, "SKIPPED": 0, "FAILED": 1, "CANCELED": 3}  # state of a run -> exit code


def submit(endpoint: Endpoint, given: dict[str, object], experiment: str = "cliptea", file: Path | None = None) -> str:
    """Upload the pipeline, if this version of it is not there, and start a run; returns the run's id.

    Args:
        endpoint: of Kubeflow Pipelines.
        given: the pipeline's parameters, from `parameters`.
        experiment: KFP's experiment, made if there is none.
        file: compiled pipeline; default: the one that is shipped.

    Raises:
        EndpointError: the server cannot be reached or refuses.
    """
    chosen = file or pipeline_file()
    version = endpoint.upload(chosen)
    if version.name != version.latest:
        print(
            f"note: this is version {version.name}; schedules go on with the latest, {version.latest}", file=sys.stderr
        )
    group = endpoint.experiment(experiment)
    with endpoint.asked():
        run = endpoint.client.run_pipeline(
            group,
            f"{given['preset']} {time.strftime('%Y-%m-%d %H:%M:%S')}",
            params=given,
            pipeline_id=version.pipeline,
            version_id=version.id,
        )
    warn_of_image(chosen)
    print(f"run {endpoint.url}/#/runs/details/{run.run_id}", flush=True)
    return run.run_id


def parameters(
    preset: str, overrides: Sequence[str], skip_unchanged: bool = False, file: Path | None = None
) -> dict[str, object]:
    """The pipeline's parameters, typed, and checked before anything is sent.

    Args:
        preset: name of the preset.
        overrides: settings of the form "a.b=c".
        skip_unchanged: end early when neither data nor settings have changed since a run that finished.
        file: compiled pipeline that is to run them; default: the one that is shipped.

    Raises:
        ConfigError: the settings are wrong, or do not fit the pipeline; or the file is no such pipeline.
    """
    check_fit(settings.load(preset, list(overrides)), read_compiled(file or pipeline_file()))
    return {"preset": preset, "overrides": list(overrides), "skip_unchanged": skip_unchanged}


def warn_of_image(file: Path) -> None:
    """Say when a compiled pipeline's image is one that nodes cannot pull."""
    image = read_compiled(file).image
    if "/" not in image:
        print(
            f"warning: the image {image} is in no registry, and only nodes that hold it can run it; else name "
            "yours by `cliptea compile --image` or --placement, and the file by --pipeline",
            file=sys.stderr,
        )


def wait(endpoint: Endpoint, run_id: str, poll: float = POLL_SECONDS, outage: float = OUTAGE_SECONDS) -> int:
    """Follow a run to its end, and tell each change of its state.

    Returns:
        Exit code: 0 when it succeeded or was skipped, 1 when it failed, 3 when it was cancelled.

    Raises:
        EndpointError: the server refuses, or is away for longer than `outage` seconds.
    """
    start = answered = time.monotonic()
    told = ""
    while True:
        try:
            with endpoint.asked():
                run = endpoint.client.get_run(run_id)
        except Away:
            if time.monotonic() - answered > outage:
                raise
        else:
            answered = time.monotonic()
            state = run.state or "PENDING"
            if state != told:
                told = state
                print(f"{state.lower()} after {clock(answered - start)}", flush=True)
            if state in ENDED:
                if run.error is not None and run.error.message:
                    print(f"error: {' '.join(run.error.message.split())}", file=sys.stderr)
                return ENDED[state]
        time.sleep(poll)
