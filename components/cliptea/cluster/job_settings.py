"""Settings for TrainJobs. They are fixed when the pipeline is compiled, and not part of any fingerprint."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cliptea.config import Config
from cliptea.messages import number_of

__all__ = ["JobSettings", "Passed"]

MOST = (1 << 32) - 1  # the largest id of a user
Positive = Annotated[int, Field(gt=0, le=MOST)]
Count = Annotated[int, Field(ge=0, le=MOST)]


class JobSettings(BaseModel):
    """Settings of the launcher step. Whole numbers may be floats, because KFP sends them like this."""

    model_config = ConfigDict(extra="forbid")

    image: str
    runtime: str = "cliptea-torch"
    runtime_kind: Literal["TrainingRuntime", "ClusterTrainingRuntime"] = "TrainingRuntime"
    nodes: Positive = 1
    processes_per_node: Positive = 1
    shared_memory: str = "2Gi"  # size of /dev/shm
    scratch: str = "20Gi"  # size of /tmp: downloaded shards and unfinished work
    seconds: Positive = 259200  # time limit after which the cluster stops the TrainJob
    pending_seconds: Positive = 3600  # how long the step waits until all pods run, not counting queues
    restarts: Count = 3  # new TrainJobs after an eviction, a preemption or a lost node
    abandoned_seconds: Positive = 900  # how long training continues without a step that follows it
    grace_seconds: Positive = 300  # for a checkpoint, before a pod that is told to stop is killed
    topology_key: str | None = None  # label of nodes; all pods run on nodes with the same value
    image_pull_secrets: list[str] = []
    user: Positive = 1000
    group: Positive = 1000
    labels: dict[str, str] = {}  # of the TrainJob and its pods; those of Kueue only of the TrainJob
    annotations: dict[str, str] = {}  # of both

    @property
    def processes(self) -> int:
        return self.nodes * self.processes_per_node

    def check(self, config: Config) -> None:
        """Check that the processes can share a batch, or raise ConfigError."""
        named = f"{number_of(self.nodes, 'node')} of {number_of(self.processes_per_node, 'process')}"
        config.train.require_shared(self.processes, named, "nodes and processes_per_node in the placement file")


class Passed(BaseModel):
    """The placement of the step, which KFP passes on as a `dsl.TaskConfig`: parts of a pod specification."""

    affinity: dict[str, Any] | None = None
    tolerations: list[dict[str, Any]] | None = None
    node_selector: dict[str, str] | None = None
    env: list[dict[str, Any]] | None = None
    volumes: list[dict[str, Any]] | None = None
    volume_mounts: list[dict[str, Any]] | None = None
    resources: dict[str, Any] | None = None
