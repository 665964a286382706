"""The train step on a cluster with Kubeflow Trainer: one student, trained by a TrainJob."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from cliptea import progress
from cliptea.cluster.api import SERVER, ClusterError, Unreachable, connect
from cliptea.cluster.follow import Pace, train
from cliptea.cluster.handover import hand_over
from cliptea.cluster.job import build
from cliptea.cluster.job_settings import JobSettings, Passed
from cliptea.data.split import Splits
from cliptea.manifest import Output, find
from cliptea.outage import Outage
from cliptea.storage import open_store
from cliptea.teacher.cache import TeacherCache
from cliptea.training.train import KIND, train_fingerprint

if TYPE_CHECKING:
    from cliptea.cluster.api import Cluster
    from cliptea.runs import Run

__all__ = ["launch_variant"]


def launch_variant(
    run: Run,
    variant: dict[str, Any],
    splits: dict[str, Any],
    teacher: dict[str, Any],
    settings: dict[str, Any],
    placement: dict[str, Any],
    pace: type[Pace] = Pace,
) -> dict[str, Any]:
    """Train one variant by a TrainJob, or find it trained; returns the manifest of the model.

    Args:
        run, variant, splits, teacher: as of `cliptea.training.train.train_variant`.
        settings: a `JobSettings`, fixed at compile time.
        placement: a `Passed`, the step's own placement; its values are None outside a cluster.
        pace: how long things may take.

    Raises:
        ConfigError: the processes cannot share a batch.
        ClusterError: the TrainJob failed, or left no model.
    """
    from cliptea.runs import Variant

    chosen, job = Variant.model_validate(variant), JobSettings.model_validate(settings)
    config, store = chosen.config, open_store()
    images, cache = Splits.model_validate(splits).own, TeacherCache.model_validate(teacher)
    model = train_fingerprint(config, chosen.seed, images, cache)
    done = find(store, Output(KIND, model))
    if done is not None:
        progress.reused()
        return done.model_dump()
    job.check(config)
    inputs = {"run": run.model_dump(mode="json"), "variant": variant, "splits": splits, "teacher": teacher}
    key = hand_over(store, f"{KIND}/{model}", inputs, job.abandoned_seconds)
    cluster = connect()
    made = build(run.job_id, chosen.label, key, job, Passed.model_validate(placement), _owners(cluster))
    name = made["metadata"]["name"]
    train(cluster, made, job, pace)
    done = find(store, Output(KIND, model))
    if done is None:
        cluster.delete(name)  # the next try would adopt it
        raise ClusterError(
            f"the TrainJob {name} ended well and left no model under {store.uri(KIND)}",
            "that its pods write to the same store as the steps",
            "compare CLIPTEA_STORE and CLIPTEA_S3_ENDPOINT of both",
        )
    _clear(cluster, name)
    store.delete(key)
    return done.model_dump()


def _clear(cluster: Cluster, name: str) -> None:
    """Delete a TrainJob whose model is in the store, since it counts against the namespace's quota."""
    try:
        cluster.delete(name)
    except ClusterError as error:
        progress.warn(f"{error}: TrainJob {name} is done and left, and goes with the pipeline run")


def _owners(cluster: Cluster) -> list[dict[str, Any]]:
    """The pipeline run's workflow: whatever becomes of the step, the cluster deletes the TrainJob with it."""
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
