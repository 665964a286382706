"""Where and how steps run on a cluster. It is fixed when the pipeline is compiled, and not part of any fingerprint."""

from __future__ import annotations

from typing import Annotated, Literal

from kubernetes.utils.quantity import parse_quantity
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cliptea import env
from cliptea.steps.component import IMAGE
from cliptea.steps.retries import Retries
from cliptea_pipeline.placement_values import (
    Annotations,
    Count,
    Cpu,
    Key,
    Labels,
    LabelValue,
    Memory,
    Name,
    Open,
    Positive,
    Public,
    Resource,
    Selected,
    Store,
    Variable,
)

__all__ = ["Placement", "StepPlacement", "Toleration"]

HOUR = 3600
# Variables that Pipelines' MLflow plug-in sets in every step. Kubernetes does not allow a reference in addition.
INJECTED = ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_WORKSPACE", "MLFLOW_TRACKING_AUTH")
OWN = {  # variable -> the key that sets it
    env.STORE.name: "store",
    env.IMAGE.name: "image",
    env.RETRIES.name: "retries",
    env.PATIENCE.name: "patience_seconds",
    env.STUDENTS.name: "students",
    env.GRACE.name: "train_job.grace_seconds",
    env.GPUS.name: "gpus of each step",
}


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Toleration(Section):
    """A taint that pods tolerate, as in the specification of a pod."""

    key: Selected | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    seconds: Count | None = None

    @model_validator(mode="after")
    def _possible(self) -> Toleration:
        if self.operator == "Exists" and self.value:
            raise ValueError("a toleration with the operator Exists has no value; use Equal, or leave out value")
        if self.key is None and self.operator != "Exists":
            raise ValueError("a toleration without a key is for all taints; add key, or operator: Exists")
        if self.seconds is not None and self.effect != "NoExecute":
            raise ValueError("seconds are for taints with the effect NoExecute; add effect: NoExecute")
        return self


class StepPlacement(Section):
    """The placement of one step. For `train` with the launcher trainjob, it applies to each training pod."""

    cpu: Cpu = "500m"  # requested
    cpu_limit: Cpu = "2"
    memory: Memory = "1Gi"  # requested
    memory_limit: Memory = "4Gi"
    gpus: Count = 0
    shared_memory: Memory | None = None  # size of /dev/shm, which counts as memory; None: 64 MiB
    seconds: Positive = HOUR  # time limit of the pod
    node_selector: dict[Selected, LabelValue] = {}
    tolerations: list[Toleration] = []
    labels: Labels = {}  # in addition to those of all steps, such as kueue.x-k8s.io/queue-name
    annotations: Annotations = {}

    @model_validator(mode="after")
    def _within_limits(self) -> StepPlacement:
        # Kubernetes does not create pods with a request above its limit.
        for name, limit in (("cpu", "cpu_limit"), ("memory", "memory_limit"), ("shared_memory", "memory_limit")):
            asked, most = getattr(self, name), getattr(self, limit)
            if asked is not None and parse_quantity(asked) > parse_quantity(most):
                raise ValueError(f"{name} {asked} is more than {limit} {most}; raise {limit}")
        return self


LARGE = StepPlacement(cpu="1", cpu_limit="8", memory="4Gi", memory_limit="16Gi", seconds=24 * HOUR)  # uses torch
PARALLEL = LARGE.model_copy(update={"shared_memory": "2Gi", "seconds": 72 * HOUR})  # in several processes


class Steps(Section):
    resolve: StepPlacement = StepPlacement()
    split: StepPlacement = StepPlacement(memory="2Gi", memory_limit="8Gi", seconds=24 * HOUR)
    tokens: StepPlacement = PARALLEL
    teacher: StepPlacement = LARGE
    variants: StepPlacement = StepPlacement()
    train: StepPlacement = PARALLEL
    evaluate: StepPlacement = LARGE
    compare: StepPlacement = StepPlacement(memory="2Gi", memory_limit="8Gi")
    promote: StepPlacement = StepPlacement()
    finish: StepPlacement = StepPlacement()


class TrainJobPlacement(Section):
    """Settings of the launcher trainjob."""

    runtime: Name = "cliptea-torch"
    runtime_kind: Literal["TrainingRuntime", "ClusterTrainingRuntime"] = "TrainingRuntime"
    nodes: Positive = 1
    processes_per_node: Positive | None = None  # None: one per GPU of train, or one without GPUs
    scratch: Memory = "20Gi"  # size of /tmp in the training pods
    # How long the step waits until all pods run. The time in which a queue holds them does not count.
    pending_seconds: Positive = HOUR
    restarts: Count = 3  # after an eviction, a preemption or a lost node
    # After which training stops if its step is gone. It takes minutes to replace a lost step.
    abandoned_seconds: Annotated[int, Field(ge=120, le=1 << 31)] = 900
    # For a checkpoint, before a pod that is told to stop is killed: enough for two of a student as large as ViT-L, as
    # measured for docs/cluster.md. Kubernetes' own default is 30.
    grace_seconds: Annotated[int, Field(ge=30, le=1 << 31, strict=True)] = 300
    topology_key: Key | None = None  # label of nodes, such as of a rack: all pods run on nodes with the same value


class Placement(Section):
    image: str = IMAGE
    store: Store | None = None  # s3://bucket/folder; None: CLIPTEA_STORE of the config map
    config_map: Name = "cliptea"
    config_keys: list[Variable] = [env.STORE.name, "AWS_REGION"]  # also the names of the environment variables
    secrets: dict[Name, list[Variable]] = {  # secret -> keys, also the names of the environment variables
        "cliptea-s3": [env.S3_ENDPOINT.name, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
        "cliptea-mlflow": [
            "MLFLOW_TRACKING_URI",
            "MLFLOW_TRACKING_TOKEN",
            "MLFLOW_TRACKING_USERNAME",
            "MLFLOW_TRACKING_PASSWORD",
        ],
        "cliptea-webhook": [env.WEBHOOK.name],
    }
    environment: dict[Public, Open] = {}  # further environment variables for every step
    labels: Labels = {}  # of the pods of every step, such as a cost centre
    annotations: Annotations = {}
    mlflow_plugin: bool = False  # Pipelines' plug-in sets the address of MLflow (with injectUserEnvVars)
    image_pull_secrets: list[Name] = []
    gpu_resource: Resource = "nvidia.com/gpu"
    user: Positive = 1000
    group: Positive = 1000
    retries: Retries = Retries()
    patience_seconds: Count = 600  # how long S3, MLflow or the API of the cluster may be down before a step fails
    token_parts: Positive = 1  # number of tasks that share CLIP's work on the views
    # Limit for one run. With about 105, a workflow exceeds Argo's 1 MiB unless offloaded.
    students: Annotated[Positive, Field(le=100_000)] = 100
    parallel: Positive | None = None  # students trained at a time; None: all, or one with trainjob
    launcher: Literal["torchrun", "trainjob"] = "torchrun"
    train_job: TrainJobPlacement = TrainJobPlacement()
    steps: Steps = Steps()

    def taken(self, names: list[str]) -> list[str]:
        """The variables among `names` that the steps take from a config map or a secret."""
        return [name for name in names if not (self.mlflow_plugin and name in INJECTED)]

    def labels_of(self, step: StepPlacement) -> dict[str, str]:
        """The labels of the pods of a step."""
        return self.labels | step.labels

    def annotations_of(self, step: StepPlacement) -> dict[str, str]:
        """The annotations of the pods of a step."""
        return self.annotations | step.annotations

    @property
    def students_at_a_time(self) -> int | None:
        return 1 if self.parallel is None and self.launcher == "trainjob" else self.parallel

    @property
    def room(self) -> int:
        """Students that fit into one run. Each further token part takes half as much of the workflow as a student."""
        return self.students - self.token_parts // 2

    @property
    def processes_per_node(self) -> int:
        """Processes on each node of a TrainJob."""
        return self.train_job.processes_per_node or self.steps.train.gpus or 1

    @model_validator(mode="after")
    def _processes_fit(self) -> Placement:
        if self.launcher == "torchrun":
            if self.train_job != TrainJobPlacement():
                raise ValueError("train_job needs the launcher trainjob, but launcher is torchrun; change one of them")
            return self
        gpus, processes = self.steps.train.gpus, self.processes_per_node
        if gpus and processes != gpus:
            raise ValueError(
                f"train_job.processes_per_node={processes} with steps.train.gpus={gpus}; expected one process per GPU; "
                "omit processes_per_node"
            )
        return self

    @model_validator(mode="after")
    def _has_room(self) -> Placement:
        if self.room < 1:
            raise ValueError(
                f"token_parts={self.token_parts} leaves no room for a student with students={self.students}; "
                f"expected token_parts below {2 * self.students}"
            )
        return self

    @model_validator(mode="after")
    def _once(self) -> Placement:
        # Kubernetes rejects a TrainJob with a repeated variable. In a pod, the order would decide which one is used.
        names = [*self.config_keys, *(key for keys in self.secrets.values() for key in keys), *self.environment]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]} appears twice in config_keys, secrets and environment; expected it once")
        for name, key in OWN.items():
            if name in names and (name != env.STORE.name or name not in self.config_keys):
                raise ValueError(f"{name} is set by the key {key}; remove it everywhere else")
        return self
