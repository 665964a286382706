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

__all__ = ["parameters", "submit", "wait"]

POLL_SECONDS = 10.0
OUTAGE_SECONDS = 900.0  # the server may be away; the run goes on without us
ENDED = {"SUCCEEDED": 0, "SKIPPED": 0, "FAILED": 1, "CANCELED": 3}  # state of a run -> exit code


def submit(
    endpoint: Endpoint,
    preset: str,
    overrides: Sequence[str],
    experiment: str = "cliptea",
    file: Path | None = None,
    skip_unchanged: bool = False,
) -> str:
    """Upload the pipeline, if this version of it is not there, and start a run; returns the run's id.

    Args:
        endpoint: of Kubeflow Pipelines.
        preset: name of the preset.
        overrides: settings of the form "a.b=c".
        experiment: KFP's experiment, made if there is none.
        file: compiled pipeline; default: the one that is shipped.
        skip_unchanged: end early when neither data nor settings have changed since a run that finished.

    Raises:
        ConfigError: the settings are wrong; nothing was sent.
        EndpointError: the server cannot be reached or refuses.
    """
    given = parameters(preset, overrides, skip_unchanged)
    pipeline, version = endpoint.upload(file or pipeline_file())
    group = endpoint.experiment(experiment)
    with endpoint.asked():
        run = endpoint.client.run_pipeline(
            group,
            f"{preset} {time.strftime('%Y-%m-%d %H:%M:%S')}",
            params=given,
            pipeline_id=pipeline,
            version_id=version,
        )
    print(f"run {endpoint.url}/#/runs/details/{run.run_id}", flush=True)
    return run.run_id


def parameters(preset: str, overrides: Sequence[str], skip_unchanged: bool) -> dict[str, object]:
    """The pipeline's parameters, typed; settings are checked here, before a pod is."""
    settings.load(preset, list(overrides))
    return {"preset": preset, "overrides": list(overrides), "skip_unchanged": skip_unchanged}


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
