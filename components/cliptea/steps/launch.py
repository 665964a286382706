"""Trains one student with a TrainJob. This is the train step if the launcher in the placement is `trainjob`."""

import os
from typing import Any

from kfp import dsl

from cliptea import progress
from cliptea.board import status_key
from cliptea.cluster.follow import Pace, train
from cliptea.cluster.job import build
from cliptea.cluster.job_settings import JobSettings, Passed
from cliptea.cluster.kubernetes_api import SERVER, Cluster, ClusterError, Unreachable, connect
from cliptea.manifest import Manifest, find
from cliptea.outage import Outage
from cliptea.sealed import seal
from cliptea.steps.component import step
from cliptea.steps.train import TRAIN_PROCESS, TrainInputs, model_output
from cliptea.storage import open_store
from cliptea.training.follower import Follower

__all__ = ["launch", "launch_variant"]


@step(hand_on_placement=True)
def launch(
    run: dsl.Input[dsl.Artifact],
    shards: dsl.Input[dsl.Artifact],
    cache: dsl.Input[dsl.Artifact],
    variant: str,
    settings: dict,
    model: dsl.Output[dsl.Artifact],
    task_config: dsl.TaskConfig,
):
    from cliptea.cluster.job_settings import JobSettings, Passed
    from cliptea.steps.common import run_step, write
    from cliptea.steps.launch import launch_variant
    from cliptea.steps.train import TrainInputs

    def work(present):
        inputs = TrainInputs.read(present, variant, shards, cache)
        job, passed = JobSettings.model_validate(settings), Passed.model_validate(vars(task_config))
        write(model, launch_variant(inputs, job, passed))

    run_step("train", work, run=run, label=variant)


def launch_variant(inputs: TrainInputs, job: JobSettings, passed: Passed, pace: type[Pace] = Pace) -> Manifest:
    """Train one variant with a TrainJob, unless it is already trained. Returns the manifest of the model.

    The processes of a TrainJob run in other pods and cannot read the artifacts of the pipeline. So the inputs are put
    into the store as one object, and the processes get its key.

    Args:
        job: settings that are fixed at compile time.
        passed: the placement of the step; its values are None outside a cluster.

    Raises:
        ConfigError: the processes cannot share a batch.
        ClusterError: the TrainJob failed, or left no model.
    """
    store, output, label = open_store(), model_output(inputs), inputs.variant.label
    done = find(store, output)
    if done is not None:
        progress.reused()
        return done
    job.check(inputs.variant.config)
    follower = Follower(key=status_key(inputs.run.job_id, "train", label), seconds=job.abandoned_seconds)
    key = inputs.key
    store.put(key, seal(inputs.model_copy(update={"follower": follower})))
    cluster = connect()
    command = ("python", "-m", TRAIN_PROCESS, key)
    made = build(inputs.run.job_id, label, command, job, passed, _owners(cluster))
    name = made["metadata"]["name"]
    train(cluster, made, job, pace)
    done = find(store, output)
    if done is None:
        cluster.delete(name)  # or else the next attempt would adopt it
        raise ClusterError(
            f"the TrainJob {name} succeeded but left no model under {store.uri(output.kind)}",
            "training pods that write to the same store as the steps",
            "compare CLIPTEA_STORE and CLIPTEA_S3_ENDPOINT of the steps and the training pods",
        )
    _clear(cluster, name)
    store.delete(key)
    return done


def _clear(cluster: Cluster, name: str) -> None:
    """Delete a completed TrainJob, because it counts against the quota of the namespace."""
    try:
        cluster.delete(name)
    except ClusterError as error:
        progress.warn(
            f"the completed TrainJob {name} could not be deleted ({error}); it is deleted with the pipeline run"
        )


def _owners(cluster: Cluster) -> list[dict[str, Any]]:
    """The workflow of the pipeline run, so that the cluster always deletes the TrainJob together with it."""
    pod, outage = os.environ.get("KFP_POD_NAME") or os.environ.get("HOSTNAME", ""), Outage(SERVER)
    while True:
        try:
            owners = cluster.owners(pod)
        except Unreachable as error:
            if not outage.wait(str(error)):
                raise
        else:
            outage.over()
            return owners
