"""Applies a placement to the tasks of the pipeline. kfp.local ignores everything that concerns Kubernetes."""

from __future__ import annotations

from typing import Any

from kfp import dsl, kubernetes

from cliptea import env
from cliptea.cluster.job_settings import JobSettings
from cliptea_pipeline.placement import Placement, StepPlacement

__all__ = ["job_settings", "placed"]


def placed(task: dsl.PipelineTask, name: str, placement: Placement) -> dsl.PipelineTask:
    """The task of the step `name` with its image, resources, environment, time limit and retries."""
    step: StepPlacement = getattr(placement.steps, name)
    # kfp's cache only knows image and arguments. The manifests in the store determine what can be reused.
    task.set_container_image(placement.image).set_caching_options(False)
    task.set_cpu_request(step.cpu).set_cpu_limit(step.cpu_limit)
    task.set_memory_request(step.memory).set_memory_limit(step.memory_limit)
    if step.gpus:
        task.set_accelerator_type(placement.gpu_resource).set_accelerator_limit(step.gpus)
    _environment(task, placement)
    if step.gpus:
        task.set_env_variable(env.GPUS.name, str(step.gpus))  # a TrainJob gets the environment of its step
    if name == "resolve":
        task.set_env_variable(env.STUDENTS.name, str(placement.room))
    for key, value in step.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in step.tolerations:
        given = toleration.model_dump()
        kubernetes.add_toleration(task, toleration_seconds=given.pop("seconds"), **given)
    follows = task.component_spec.task_config_passthroughs is not None  # a TrainJob, which `step` is about
    own = StepPlacement() if follows else step
    for key, value in placement.labels_of(own).items():
        kubernetes.add_pod_label(task, key, value)
    for key, value in placement.annotations_of(own).items():
        kubernetes.add_pod_annotation(task, key, value)
    if not follows:  # a TrainJob has its own limits, and may wait in a queue for any length of time
        kubernetes.set_timeout(task, step.seconds)
    kubernetes.set_security_context(
        task, run_as_user=placement.user, run_as_group=placement.group, run_as_non_root=True
    )
    if placement.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, placement.image_pull_secrets)
    if step.shared_memory is not None and not follows:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", "Memory", step.shared_memory)
    # These retries are only for lost pods: the server replaces pods that are deleted, also with their node.
    # By default, it does not rerun failed code (the workflow controller's `retryPolicy: OnError`). Steps retry
    # temporary failures themselves, as set in CLIPTEA_RETRIES.
    retries = placement.retries
    if retries.count and name != "finish":  # an exit task may have no retries
        task.set_retry(retries.count, f"{retries.wait_seconds}s", retries.factor, f"{retries.longest_wait_seconds}s")
    return task


def job_settings(placement: Placement) -> dict[str, Any]:
    """The argument of the TrainJob launcher."""
    train = placement.steps.train
    given = placement.train_job.model_dump() | {
        "image": placement.image,
        "processes_per_node": placement.processes_per_node,
        "shared_memory": train.shared_memory or "64Mi",
        "seconds": train.seconds,
        "image_pull_secrets": placement.image_pull_secrets,
        "user": placement.user,
        "group": placement.group,
        "labels": placement.labels_of(train),
        "annotations": placement.annotations_of(train),
    }
    return JobSettings.model_validate(given).model_dump(exclude_none=True)  # kfp takes no None


def _environment(task: dsl.PipelineTask, placement: Placement) -> None:
    """Set variables from the config map, from secrets, and from the placement.

    Keys and secrets are optional, because a pod would wait forever for a missing secret without any message. Steps
    report missing variables themselves.
    """
    keys = {key: key for key in placement.taken(placement.config_keys) if key != env.STORE.name or not placement.store}
    if keys:
        kubernetes.use_config_map_as_env(task, placement.config_map, keys, optional=True)
    for secret, names in placement.secrets.items():
        if taken := placement.taken(names):
            kubernetes.use_secret_as_env(task, secret, {name: name for name in taken}, optional=True)
    given = placement.environment | {
        env.IMAGE.name: placement.image,
        env.RETRIES.name: placement.retries.model_dump_json(),
        env.PATIENCE.name: str(placement.patience_seconds),
    }
    if placement.store:
        given[env.STORE.name] = placement.store
    for name, value in given.items():
        task.set_env_variable(name, value)
