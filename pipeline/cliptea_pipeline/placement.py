"""Where and how the steps run on a cluster. Fixed when the pipeline is compiled; no part of any fingerprint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cliptea.errors import ConfigError
from cliptea.settings import SECRET, merge
from cliptea.steps.common import IMAGE

__all__ = ["Placement", "StepPlacement", "read_placement"]

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Cpu = Annotated[str, Field(pattern=r"^([0-9]+(\.[0-9]+)?|[0-9]+m)$", coerce_numbers_to_str=True)]
Memory = Annotated[str, Field(pattern=r"^[0-9]+([EPTGMK]i?)?$", coerce_numbers_to_str=True)]
HOUR = 3600


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Toleration(Section):
    """A taint that pods may be put beside, as in a pod's specification."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    seconds: Count | None = None


class StepPlacement(Section):
    """Of one step. Of `train` with the launcher trainjob, resources and nodes are those of each training pod."""

    cpu: Cpu = "500m"  # requested
    cpu_limit: Cpu = "2"
    memory: Memory = "1Gi"  # requested
    memory_limit: Memory = "4Gi"
    gpus: Count = 0
    shared_memory: Memory | None = None  # size of /dev/shm, which counts as memory; None: 64 MiB
    seconds: Positive = HOUR  # after which the pod is ended
    node_selector: dict[str, str] = {}
    tolerations: list[Toleration] = []


class Steps(Section):
    resolve: StepPlacement = StepPlacement()
    split: StepPlacement = StepPlacement(memory="2Gi", memory_limit="8Gi", seconds=24 * HOUR)
    tokens: StepPlacement = StepPlacement(
        cpu="1", cpu_limit="8", memory="4Gi", memory_limit="16Gi", shared_memory="2Gi", seconds=72 * HOUR
    )
    teacher: StepPlacement = StepPlacement(cpu="1", cpu_limit="8", memory="4Gi", memory_limit="16Gi", seconds=24 * HOUR)
    variants: StepPlacement = StepPlacement()
    train: StepPlacement = StepPlacement(
        cpu="1", cpu_limit="8", memory="4Gi", memory_limit="16Gi", shared_memory="2Gi", seconds=72 * HOUR
    )
    evaluate: StepPlacement = StepPlacement(
        cpu="1", cpu_limit="8", memory="4Gi", memory_limit="16Gi", seconds=24 * HOUR
    )
    compare: StepPlacement = StepPlacement(memory="2Gi", memory_limit="8Gi")
    promote: StepPlacement = StepPlacement()
    finish: StepPlacement = StepPlacement()


class Retries(Section):
    count: Count = 2
    wait_seconds: Count = 30  # before the first
    factor: Annotated[float, Field(ge=1)] = 2.0
    longest_wait_seconds: Count = 600


class TrainJobPlacement(Section):
    """Of the launcher trainjob."""

    runtime: str = "cliptea-torch"
    runtime_kind: Literal["TrainingRuntime", "ClusterTrainingRuntime"] = "TrainingRuntime"
    nodes: Positive = 1
    processes_per_node: Positive = 1
    scratch: Memory = "20Gi"  # size of /tmp in the training pods
    pending_seconds: Positive = HOUR  # how long no pod may run before the step gives up
    restarts: Count = 3  # after an eviction, a preemption or a lost node


class Placement(Section):
    image: str = IMAGE
    store: str | None = None  # s3://bucket/folder; None: CLIPTEA_STORE of the config map
    config_map: str = "cliptea"
    config_keys: list[str] = ["CLIPTEA_STORE", "AWS_REGION"]  # each the name of its environment variable
    secrets: dict[str, list[str]] = {  # secret -> keys, likewise
        "cliptea-s3": ["CLIPTEA_S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
        "cliptea-mlflow": [
            "MLFLOW_TRACKING_URI",
            "MLFLOW_TRACKING_TOKEN",
            "MLFLOW_TRACKING_USERNAME",
            "MLFLOW_TRACKING_PASSWORD",
        ],
        "cliptea-webhook": ["CLIPTEA_WEBHOOK"],
    }
    environment: dict[str, str] = {}  # further variables of every step
    image_pull_secrets: list[str] = []
    gpu_resource: str = "nvidia.com/gpu"
    user: Positive = 1000
    group: Positive = 1000
    retries: Retries = Retries()
    token_parts: Positive = 1  # tasks that share CLIP's work on the views
    parallel: Positive | None = None  # students trained at a time; None: all
    launcher: Literal["torchrun", "trainjob"] = "torchrun"
    train_job: TrainJobPlacement = TrainJobPlacement()
    steps: Steps = Steps()

    @field_validator("store")
    @classmethod
    def _shared(cls, store: str | None) -> str | None:
        if store is not None and not re.fullmatch(r"s3://[^/@:?]+(/.*)?|file:///.+", store):
            raise ValueError("expected s3://bucket/folder, or file:///folder on a volume that all steps mount")
        return store

    @field_validator("environment")
    @classmethod
    def _open(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if SECRET.search(name):
                raise ValueError(f"{name} looks like a secret, and the pipeline is public; use secrets")
        return environment

    @model_validator(mode="after")
    def _once(self) -> Placement:
        # A TrainJob with a variable twice is refused, and in a pod it depends on their order which one holds.
        names = [*self.config_keys, *(key for keys in self.secrets.values() for key in keys), *self.environment]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]} is in two of config_keys, secrets and environment; expected it in one")
        if "CLIPTEA_STORE" in self.environment:
            raise ValueError("CLIPTEA_STORE is in environment; expected it as store")
        return self


def read_placement(file: Path | None) -> Placement:
    """The placement of a YAML file, which says only what differs from the defaults; None: the defaults.

    Raises:
        ConfigError: it cannot be read, or has unknown keys or wrong values; one line.
    """
    if file is None:
        return Placement()
    try:
        read = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the placement {file} ({' '.join(str(error).split())})") from None
    if not isinstance(read, dict):
        raise ConfigError(f"the placement {file} is no mapping", "keys such as image, store, steps")
    try:
        return Placement.model_validate(merge(Placement().model_dump(), read))
    except ValidationError as error:
        raise _readable(error, file) from None


def _readable(error: ValidationError, file: Path) -> ConfigError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section = [str(part) for part in first["loc"][:-1]]
        return ConfigError(f"{file}: unknown key {key}", "one of " + ", ".join(_keys(section)))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error" and not key:
        return ConfigError(f"{file}: {message}")
    return ConfigError(f"{file}: {key}={first['input']!r} is refused: {message[0].lower()}{message[1:]}")


def _keys(section: list[str]) -> Iterator[str]:
    """The keys that a section of the file may have."""
    model: Any = Placement()
    for part in section:
        model = Toleration() if part.isdigit() else getattr(model, part)
        if part == "tolerations":
            model = Toleration()
    yield from type(model).model_fields
