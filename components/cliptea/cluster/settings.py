"""How a TrainJob is made and followed: fixed when the pipeline is compiled, no part of any fingerprint."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cliptea.config import Config
from cliptea.errors import ConfigError

__all__ = ["JobSettings", "Passed"]

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class JobSettings(BaseModel):
    """What the launcher step is given beside the data; whole numbers may come as floats, as KFP sends them."""

    model_config = ConfigDict(extra="forbid")

    image: str
    runtime: str = "cliptea-torch"
    runtime_kind: Literal["TrainingRuntime", "ClusterTrainingRuntime"] = "TrainingRuntime"
    nodes: Positive = 1
    processes_per_node: Positive = 1
    shared_memory: str = "2Gi"  # size of /dev/shm
    scratch: str = "20Gi"  # size of /tmp: downloaded shards and unfinished work
    seconds: Positive = 259200  # after which the cluster ends the TrainJob
    pending_seconds: Positive = 3600  # how long not all pods may run before the step gives up
    restarts: Count = 3  # new TrainJobs after an eviction, a preemption or a lost node
    abandoned_seconds: Positive = 900  # after which training ends by itself when the step that follows has gone
    image_pull_secrets: list[str] = []
    user: Positive = 1000
    group: Positive = 1000

    @property
    def processes(self) -> int:
        return self.nodes * self.processes_per_node

    def check(self, config: Config) -> None:
        """Refuse settings whose batch the processes cannot share. Raises ConfigError."""
        parts = self.processes * config.train.accumulate
        if config.train.batch_size % parts:
            accumulate = f" and train.accumulate={config.train.accumulate}" if config.train.accumulate > 1 else ""
            raise ConfigError(
                f"train.batch_size={config.train.batch_size} cannot be divided among {self.nodes} nodes of "
                f"{self.processes_per_node} processes{accumulate}",
                f"a multiple of {parts}",
                "change train.batch_size, or nodes and processes_per_node in the placement file",
            )


class Passed(BaseModel):
    """The step's own placement, which KFP hands on as a `dsl.TaskConfig`: fragments of a pod's specification."""

    affinity: dict[str, Any] | None = None
    tolerations: list[dict[str, Any]] | None = None
    node_selector: dict[str, str] | None = None
    env: list[dict[str, Any]] | None = None
    volumes: list[dict[str, Any]] | None = None
    volume_mounts: list[dict[str, Any]] | None = None
    resources: dict[str, Any] | None = None
