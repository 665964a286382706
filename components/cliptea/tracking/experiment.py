"""The experiment of all runs in MLflow, and how runs are found there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException

from cliptea import env, progress
from cliptea.errors import ConfigError, TrackingError
from cliptea.messages import shortened
from cliptea.tracking.address import EXPERIMENT, tracking_address
from cliptea.tracking.database import artifact_folder, database_file
from cliptea.tracking.first_view import VIEW_TAG, first_view, view_page
from cliptea.tracking.mlflow_client import all_pages

__all__ = [
    "all_experiments", "experiment_id", "find_run", "known_experiments", "leftovers", "plugin_run",
    "show_scores_first", "without_quotes",
]  # fmt: skip

DESCRIPTION = (
    "**[All scores, the highest hIoU first]({page})**. The model to ship is the version with the alias `champion`: see "
    "**[the registered models](#/models)**. There is a run for each pipeline run, with a child for each variant and "
    "seed. `hiou` is the harmonic mean of seen and unseen mIoU."
)
OWN = ("**[All scores, the highest hIoU first]", "Students of cliptea:")  # how our descriptions begin and began
NOTE = "mlflow.note.content"  # the description on MLflow's page
DELETED = "deleted"  # the stage of an experiment
LONGEST_EXPERIMENT_NAME = 256  # characters in MLflow's tables; only SQLite takes more
# Without this tag, MLflow's user interface treats the experiment as one for language models.
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
}


def experiment_id(client: MlflowClient) -> str:
    """The id of the experiment for all runs: the one of KFP's MLflow plug-in, MLFLOW_EXPERIMENT_NAME, or our own.

    The latter two are created on first use, and restored if they were deleted in MLflow. For a SQLite file, artifacts
    are stored next to the file.

    Raises:
        ConfigError: the experiment of the plug-in does not exist, or is deleted; or a new one has too long a name.
    """
    if named := _of_plugin("MLFLOW_EXPERIMENT_ID"):
        with _refusing("MLFLOW_EXPERIMENT_ID", named, "an experiment"):
            if client.get_experiment(named).lifecycle_stage == DELETED:
                raise ConfigError(
                    f"the experiment {named} in MLFLOW_EXPERIMENT_ID is deleted in MLflow",
                    todo=f"restore it with `mlflow experiments restore --experiment-id {named}`, or unset the variable",
                )
        return named
    name = _name()
    found: Experiment | None = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage == DELETED:
            _restore(client, found)
        return found.experiment_id
    if len(name) > LONGEST_EXPERIMENT_NAME:
        raise ConfigError(
            f"MLFLOW_EXPERIMENT_NAME={shortened(name, 60)} has {len(name)} characters",
            f"at most {LONGEST_EXPERIMENT_NAME}, which every database of MLflow takes",
            "choose a shorter name",
        )
    file = database_file(client.tracking_uri)
    location = artifact_folder(file).as_uri() if file else None
    try:
        return client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS)
    except MlflowException:
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return found.experiment_id  # another run has just created it


def show_scores_first(client: MlflowClient) -> None:
    """Give the experiment the view that opens with the scores, and a description with its address.

    A description that a user has written stays.
    """
    experiment = client.get_experiment(experiment_id(client))
    view = first_view()
    if experiment.tags.get(VIEW_TAG) != view:
        _set_tag(client, experiment.experiment_id, VIEW_TAG, view)
    present = experiment.tags.get(NOTE, "")
    described = DESCRIPTION.format(page=view_page(experiment.experiment_id))
    if present != described and (not present or present.startswith(OWN)):
        _set_tag(client, experiment.experiment_id, NOTE, described)


def _set_tag(client: MlflowClient, experiment: str, key: str, value: str) -> None:
    try:
        client.set_experiment_tag(experiment, key, value)
    except MlflowException:  # also if another run sets it at the same moment, which MLflow refuses as a second row
        if client.get_experiment(experiment).tags.get(key) != value:
            raise


def known_experiments(client: MlflowClient) -> list[str]:
    """The ids of the experiments in which runs without a heartbeat are looked for: the named one, and our own.

    A command may have another MLFLOW_EXPERIMENT_NAME than the steps. This never creates or restores an experiment.
    """
    found = [client.get_experiment_by_name(name) for name in (_name(), EXPERIMENT)]
    ids = [one.experiment_id for one in found if one is not None and one.lifecycle_stage != DELETED]
    named = _of_plugin("MLFLOW_EXPERIMENT_ID")
    return list(dict.fromkeys([named, *ids] if named else ids))


def all_experiments(client: MlflowClient) -> list[str]:
    """The ids of all experiments that are not deleted, to look for the run of a pipeline job by its unique id."""
    return [experiment.experiment_id for experiment in all_pages(client.search_experiments)]


def _name() -> str:
    """The name of the experiment. A work directory only knows our own, whose artifacts move with it."""
    return EXPERIMENT if _in_workdir() else os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def _in_workdir() -> bool:
    return env.in_local_run() and database_file(tracking_address()) is not None


def _restore(client: MlflowClient, found: Experiment) -> None:
    experiment, name = found.experiment_id, found.name
    try:
        client.restore_experiment(experiment)
    except MlflowException:
        if client.get_experiment(experiment).lifecycle_stage == DELETED:  # or else another run was faster
            raise TrackingError(
                f"the experiment {name} was deleted in MLflow and cannot be restored",
                todo=f"restore it with `mlflow experiments restore --experiment-id {experiment}`, or rename it",
            ) from None
    else:
        progress.note(f"the experiment {name} was deleted in MLflow and is restored")


def leftovers() -> list[str]:
    """Variables of KFP's MLflow plug-in and of MLflow that this run on one machine ignores."""
    names = ["MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", *(["MLFLOW_EXPERIMENT_NAME"] if _in_workdir() else [])]
    return [name for name in names if env.in_local_run() and os.environ.get(name)]


def _of_plugin(name: str) -> str:
    """A variable that KFP's MLflow plug-in sets in a pod. On one machine, it can only be left over from another job."""
    return "" if env.in_local_run() else os.environ.get(name, "")


@contextmanager
def _refusing(variable: str, value: str, what: str) -> Iterator[None]:
    """Say which variable named something that MLflow does not have."""
    try:
        yield
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise ConfigError(
            f"{variable}={value} names {what} that MLflow at {tracking_address()} does not have",
            f"{what} there",
            f"correct {variable}, or unset it if it is left over from another job",
        ) from None


def find_run(client: MlflowClient, tags: Mapping[str, str]) -> Run | None:
    """A run with all of these tags, or None."""
    query = " and ".join(f"tags.`{key}` = '{without_quotes(value)}'" for key, value in tags.items())
    runs = client.search_runs([experiment_id(client)], query, max_results=1)
    return runs[0] if runs else None


def plugin_run(client: MlflowClient) -> Run | None:
    """The MLflow run that KFP's plug-in created for the pipeline run, or None. It is the outermost parent run."""
    run_id = named = _of_plugin("MLFLOW_RUN_ID")
    found: Run | None = None
    with _refusing("MLFLOW_RUN_ID", named, "a run"):
        while run_id:
            found = run = client.get_run(run_id)
            run_id = run.data.tags.get("mlflow.parentRunId")
    return found


def without_quotes(value: str) -> str:
    """A value for a query of MLflow between single quotes, which it may not contain itself."""
    return value.replace("'", "")
