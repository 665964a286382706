"""Check that settings fit the compiled pipeline that will run them, before any request to a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cliptea import env
from cliptea.cluster.job_settings import JobSettings
from cliptea.config import Config
from cliptea.errors import ConfigError
from cliptea.messages import number_of
from cliptea.parse import parse_yaml, read_text
from cliptea.run import expand, require_room
from cliptea.storage import is_remote
from cliptea.weights_source import WeightsSource
from cliptea_pipeline.placement import Placement

__all__ = ["PARAMETERS", "Compiled", "check_fit", "read_compiled"]

PARAMETERS = {"preset", "config", "overrides", "skip_unchanged", "part"}  # of the pipeline
# Steps with GPUs whose number of processes is a setting. For TrainJobs, the placement sets it.
PROCESSES = {"tokens": "teacher.num_workers", "train": "train.processes"}


class Compiled(NamedTuple):
    """The placement that is contained in a compiled pipeline."""

    image: str  # of every step
    store: str  # its address if the pipeline contains it, or else ""
    gpus: dict[str, int]  # of each step
    job: JobSettings | None  # of the launcher trainjob
    room: int  # number of students that fit into one run


def read_compiled(file: Path) -> Compiled:
    """The placement that a pipeline was compiled with.

    Raises:
        ConfigError: the file cannot be read, or is not a compiled cliptea pipeline.
    """
    expected = "a file that `cliptea compile -o` wrote"
    data = read_text(file, "the pipeline")
    try:
        spec = parse_yaml(data.decode(), f"the pipeline {file}", first=True)
        given = spec["root"]["inputDefinitions"]["parameters"]
        steps = {name.removeprefix("exec-"): e["container"] for name, e in spec["deploymentSpec"]["executors"].items()}
        job, resolve, current = _job_settings(spec), steps["resolve"], given.keys() >= PARAMETERS
        environment = {item["name"]: item["value"] for item in resolve.get("env", [])}
        gpus = {
            name: int(c.get("resources", {}).get("accelerator", {}).get("resourceCount", 0))
            for name, c in steps.items()
        }
        room = int(environment.get(env.STUDENTS.name, Placement().room))
        found = Compiled(resolve["image"], environment.get(env.STORE.name, ""), gpus, job, room)
    except (ConfigError, ValueError, TypeError, KeyError, AttributeError):
        todo = "if this is a placement file, compile it first with `cliptea compile --placement`"
        raise ConfigError(f"{file} is not a compiled cliptea pipeline", expected, todo) from None
    if not current:
        raise ConfigError(f"{file} was compiled by another version of cliptea", expected, "compile it again")
    return found


def _job_settings(spec: dict[str, Any]) -> JobSettings | None:
    for component in spec["components"].values():
        launch = component.get("dag", {}).get("tasks", {}).get("launch")
        if launch is not None:
            return JobSettings.model_validate(launch["inputs"]["parameters"]["settings"]["runtimeValue"]["constant"])
    return None


def check_fit(config: Config, compiled: Compiled, parts: int = 1) -> None:
    """Reject settings that cannot run with the placement of the pipeline.

    Args:
        parts: number of runs that share the students.

    Raises:
        ConfigError: there are too many students, processes cannot share a batch or leave GPUs idle, or a pod would need
            files on this machine.
    """
    students = [variant.config for variant in expand(config)]
    require_room(len(students), compiled.room, parts)
    if compiled.job is not None:
        for student in students:
            compiled.job.check(student)
    for step, setting in PROCESSES.items():
        section, name = setting.split(".")
        processes, gpus = getattr(getattr(config, section), name), compiled.gpus.get(step, 0)
        if processes < gpus:
            raise ConfigError(
                f"the pipeline gives the step {step} {number_of(gpus, 'GPU')}, but {setting}={processes} uses only "
                f"{processes}",
                "one process per GPU",
                f"add --set {setting}={gpus}, or change steps.{step}.gpus in the placement file",
            )
    if compiled.store.startswith("file:"):
        return  # the steps mount a volume, which may contain data as well
    for key, path in _read_by_pods(config, students):
        if path is None:
            raise ConfigError(f"{key} is not set", "the address of the data", f"add --set {key}=s3://BUCKET/FOLDER")
        if not is_remote(path):
            raise ConfigError(
                f"{key}={path} is on this machine, where pods cannot read it",
                "an s3:// address",
                "copy it to the bucket, as docs/cluster.md explains under Data and weights",
            )


def _read_by_pods(config: Config, students: list[Config]) -> Iterator[tuple[str, str | None]]:
    """The files and folders in the settings, with None for data without a folder."""
    yield from config.roots.items()
    files = {"teacher.weights": config.teacher.weights, "teacher.text_features": config.teacher.text_features}
    files |= {f"evaluation.sets.{name}.text_features": s.text_features for name, s in config.evaluation.sets.items()}
    files |= {f"student.pretrained.{s.student.backbone}": s.encoder_weights for s in students}
    for key, source in files.items():
        if isinstance(source, str) and WeightsSource.of(source).is_file:
            yield key, source
    for given in {s.train.init_from for s in students if s.train.init_from}:
        if not given.startswith(("models:/", "runs:/")):
            yield "train.init_from", given
