"""The TrainJob of one student, built from the models of kubeflow-trainer-api (trainer.kubeflow.org/v1alpha1)."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from typing import Any

from cliptea import env
from cliptea.cluster.job_settings import JobSettings, Passed

__all__ = ["KUEUE", "LABELS", "NODE", "PRIORITY", "QUEUE", "RUN_LABEL", "VARIANT", "build", "job_name", "run_value"]

LABELS = {"app.kubernetes.io/name": "cliptea", "app.kubernetes.io/component": "train"}
RUN_LABEL = "cliptea/run"  # label; its value is `run_value` of the pipeline job's id
VARIANT = "cliptea/variant"  # annotation
KUEUE = "kueue.x-k8s.io"
QUEUE, PRIORITY = f"{KUEUE}/queue-name", f"{KUEUE}/priority-class"  # labels
NODE = "node"  # name of the replicated job and its container in all torch runtimes of Trainer
LONGEST_SLUG = 20  # Trainer and JobSet append to the name, and host names have at most 63 characters
# KFP's MLflow plug-in sets these in the environment of the task, which is not part of the passed placement.
FORWARDED = ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID")


def job_name(job_id: str, label: str) -> str:
    """The name of the TrainJob for a variant. It is a valid host name, and the same for every retry."""
    slug = re.sub(r"[^a-z0-9]+", "-", label.lower())[:LONGEST_SLUG].strip("-")
    digest = hashlib.sha256(f"{job_id}\0{label}".encode()).hexdigest()[:10]
    return "-".join(part for part in ("cliptea", slug, digest) if part)


def run_value(job_id: str) -> str:
    """A pipeline job's id as a label value. A text that is not a valid label value is replaced by its hash."""
    if re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", job_id):
        return job_id
    return hashlib.sha256(job_id.encode()).hexdigest()[:32]


def build(
    job_id: str,
    label: str,
    command: Sequence[str],
    settings: JobSettings,
    passed: Passed,
    owners: list[dict[str, Any]],
) -> dict[str, Any]:
    """The TrainJob in the form that is sent to the cluster.

    Args:
        command: the command in every pod. Trainer sets PET_ variables with the rank and the number of processes.
        passed: placement of the step, which KFP passes on.
        owners: owner references. The cluster deletes the TrainJob together with its owner.
    """
    from kubeflow_trainer_api import models

    metadata: dict[str, Any] = {
        "name": job_name(job_id, label),
        "annotations": settings.annotations | {VARIANT: label},
        "labels": settings.labels | LABELS | {RUN_LABEL: run_value(job_id)},
    }
    if owners:
        metadata["ownerReferences"] = owners
    node = _replicated(metadata["name"], settings, passed)
    job = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": metadata,
        "spec": {
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org",
                "kind": settings.runtime_kind,
                "name": settings.runtime,
            },
            "activeDeadlineSeconds": settings.seconds,
            "trainer": {
                "image": settings.image,
                "command": list(command),
                "numNodes": settings.nodes,
                "numProcPerNode": settings.processes_per_node,
                "env": _environment(settings, passed),
                **({"resourcesPerNode": passed.resources} if passed.resources else {}),
            },
            "runtimePatches": [
                {
                    "manager": "cliptea.kubeflow.org/train-step",
                    "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [node]}}},
                }
            ],
        },
    }
    built = models.TrainerV1alpha1TrainJob.from_dict(job)
    assert built is not None
    return built.to_dict()


def _environment(settings: JobSettings, passed: Passed) -> list[dict[str, Any]]:
    """Variables of the step with secrets as references, variables that KFP set here, and writable folders."""
    given = list(passed.env or [])
    names = {item["name"] for item in given}
    own = {name: os.environ[name] for name in FORWARDED if "@" not in os.environ.get(name, "@")}  # without passwords
    own |= {env.CACHE.name: "/tmp/cliptea", env.STEP.name: env.STEP.get() or json.dumps(["train", ""])}
    own[env.GRACE.name] = str(settings.grace_seconds)
    return given + [{"name": name, "value": value} for name, value in own.items() if name not in names]


def _replicated(name: str, settings: JobSettings, passed: Passed) -> dict[str, Any]:
    """Changes to the runtime's pods: placement, volumes, and the restricted pod security standard."""
    mounts = [{"name": "cliptea-shm", "mountPath": "/dev/shm"}, {"name": "cliptea-tmp", "mountPath": "/tmp"}]
    pod: dict[str, Any] = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": settings.user,
            "runAsGroup": settings.group,
            "fsGroup": settings.group,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": NODE,
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": True,
                },
                "volumeMounts": mounts + (passed.volume_mounts or []),
            }
        ],
        "volumes": [
            {"name": "cliptea-shm", "emptyDir": {"medium": "Memory", "sizeLimit": settings.shared_memory}},
            {"name": "cliptea-tmp", "emptyDir": {"sizeLimit": settings.scratch}},
            *(passed.volumes or []),
        ],
        "nodeSelector": passed.node_selector,
        "tolerations": passed.tolerations,
        "affinity": (passed.affinity or {}) | _together(name, settings.topology_key),
        "terminationGracePeriodSeconds": settings.grace_seconds,
        "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
    }
    # Kueue admits jobs with its labels. On their pods, it would admit these once more.
    labels = {key: value for key, value in settings.labels.items() if not key.startswith(f"{KUEUE}/")}
    metadata = {"labels": labels, "annotations": settings.annotations}
    template = {
        **({"metadata": metadata} if labels or settings.annotations else {}),
        "spec": {key: value for key, value in pod.items() if value},
    }
    return {"name": NODE, "template": {"spec": {"template": template}}}


def _together(name: str, topology_key: str | None) -> dict[str, Any]:
    """The affinity of the pods of a TrainJob to each other: nodes with the same value of a label, such as of a rack."""
    if topology_key is None:
        return {}
    others = {"labelSelector": {"matchLabels": {"jobset.sigs.k8s.io/jobset-name": name}}, "topologyKey": topology_key}
    return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [others]}}
