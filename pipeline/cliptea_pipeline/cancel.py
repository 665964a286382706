"""`cliptea cancel`: ends a run on a cluster, including its TrainJobs and its MLflow runs."""

from __future__ import annotations

import re
import sys
import time

from cliptea.cluster.kubernetes_api import ClusterError, NoTrainer
from cliptea.errors import ConfigError
from cliptea.exit_codes import ExitCode
from cliptea.messages import plain
from cliptea_pipeline import closing
from cliptea_pipeline.endpoint import Away, Endpoint, EndpointError
from cliptea_pipeline.looks import CANCELLED, ENDED, look, run_page, word

__all__ = ["cancel", "parse"]

POLL_SECONDS = 2.0  # between two requests for the state of the run
PATIENCE_SECONDS = 180.0  # until the run has ended
REASON = "cancelled by cliptea cancel"
BY_ITSELF = "training stops on its own soon after its step is gone"
DETAILS = "#/runs/details/"
A_RUN = "the ID of a run, or the address that `cliptea submit` printed"


def parse(run: str) -> tuple[str, str | None]:
    """The id of a run, and the address of its server where `run` is the address of its page.

    Raises:
        ConfigError: it is not the id or the address of a run.
    """
    page, details, after = run.strip().partition(DETAILS)
    if not details and "/" in page:
        raise ConfigError(f"{page} is not the address of a run", A_RUN)
    run_id = re.split("[/?]", after)[0] if details else page
    if not run_id:
        raise ConfigError("no run is given", A_RUN)
    return run_id, page.partition("?")[0].rstrip("/") if details else None


def cancel(endpoint: Endpoint, run_id: str) -> int:
    """End a run, and print a line for everything that was or could not be done.

    Args:
        run_id: the run. If it has already ended, this only cleans up after it.

    Returns:
        Exit code: 0 if the run has ended, 1 if Pipelines still reports it as active.

    Raises:
        ConfigError: the run does not exist.
        EndpointError: the server does not answer, or denies the request.
    """
    state = look(endpoint, run_id).state
    if state in ENDED:
        print(f"run: it has already ended ({plain(word(state))})")
    else:
        _terminate(endpoint, run_id)
        print("run: asked Pipelines to end it", flush=True)
        state = _ended(endpoint, run_id)
        if state in ENDED:
            print(f"run: {plain(word(state))}", flush=True)
    for line in _delete_jobs(endpoint, run_id):
        print(plain(line))
    if state not in ENDED:
        print(
            f"run: Pipelines still reports {plain(state.lower())} after {PATIENCE_SECONDS:.0f} s; "
            f"run the same command again, or see {run_page(endpoint, run_id) or 'it in Pipelines'}",
            file=sys.stderr,
        )
        return ExitCode.FAILED
    print(plain(closing.close(run_id, state, REASON)) or "MLflow: it has no open runs")
    return ExitCode.DONE


def _terminate(endpoint: Endpoint, run_id: str) -> None:
    try:
        with endpoint.asked():
            endpoint.client.terminate_run(run_id)
    except EndpointError:
        if _state(endpoint, run_id) not in ENDED:  # it has not just ended by itself
            raise


def _state(endpoint: Endpoint, run_id: str) -> str:
    """The state of a run that was there, and that someone may have deleted meanwhile."""
    try:
        return look(endpoint, run_id).state
    except ConfigError:
        return CANCELLED


def _ended(endpoint: Endpoint, run_id: str) -> str:
    """The state of the run when it has ended, or when the patience is over."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    state = "CANCELING"
    while state not in ENDED and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        try:
            state = _state(endpoint, run_id)
        except Away:
            continue
    return state


def _delete_jobs(endpoint: Endpoint, run_id: str) -> list[str]:
    """Delete the TrainJobs that the steps of the run could not delete, and return a line about each."""
    done, what = [], "could not be listed"
    try:
        cluster = endpoint.cluster()
        names = [job["metadata"]["name"] for job in cluster.jobs(run_id)]
        what = "could not be deleted"
        for name in names:
            cluster.delete(name)
            done.append(f"TrainJobs: deleted {name}")
    except NoTrainer:
        return ["TrainJobs: the cluster has no Kubeflow Trainer, so there are none"]
    except ClusterError as error:
        return [*done, f"TrainJobs: {what} ({error.what}); {BY_ITSELF}"]
    return done or [f"TrainJobs: none are left in namespace {cluster.namespace}"]
