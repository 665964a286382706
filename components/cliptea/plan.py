"""The estimated cost of a run and what is missing for it, from settings and published facts. It reads no data.

Shape legend: D teacher width, g tokens per side.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from cliptea import env
from cliptea.addresses import is_uri
from cliptea.config import Config
from cliptea.data.datasets import train_images
from cliptea.errors import ConfigError, one_line
from cliptea.models.backbones import licence, weights
from cliptea.parse import parse_json, read_text
from cliptea.run import expand
from cliptea.storage import is_remote
from cliptea.teacher.families import described_teacher, patch_size, require_teacher
from cliptea.teacher.outputs import REGION_BLOCKS, clustered_kind, clustering_key

__all__ = ["REGIONS", "TEACHER", "Plan", "Student", "make_plan", "read_rates"]

TEACHER = "teacher"  # name of CLIP's rate among the rates of the students
REGIONS = 4  # of a view, assumed for the cost of embeddings of regions; there are 4.2 in the demo
TAR_BLOCK, NPY_HEADER = 512, 128  # bytes


class Student(BaseModel):
    """A backbone that the run trains."""

    backbone: str
    trainings: int
    parameters: int
    licence: str  # of its pre-trained weights; empty if training starts from random weights
    gpu_hours: float | None


class Plan(BaseModel):
    """The contents of `cliptea plan`. None means unknown."""

    steps: dict[str, int]  # step -> number of tasks, without bookkeeping steps and with a single tokens task
    trainings: int
    students: list[Student]
    variants: dict[str, str]  # group/variant -> what it is, in one line; without trials
    trials: dict[str, dict[str, Any]] = {}  # the settings of each trial of a sweep, by group and variant
    images: int | None  # number of training images
    views: int | None
    validated_images: int | None  # held-out images that are scored, in all validations of all trainings together
    view_bytes: int  # stored size of a view's CLS token and region maps, which training reads
    dense_bytes: int  # stored size of a view's tokens to cluster
    passes_per_region: int  # of CLIP, beside one for the view itself
    attention_passes: float  # part of a pass that tokens attending to regions need for a view
    teacher_gpu_hours: float | None
    pays_from: float | None  # number of trainings from which storing tokens needs less CLIP time than CLIP in the loop
    missing: list[str]

    @property
    def gpu_hours(self) -> float | None:
        passes = 1 + self.passes_per_region * REGIONS + self.attention_passes
        teacher = None if self.teacher_gpu_hours is None else self.teacher_gpu_hours * passes
        parts = [teacher, *(student.gpu_hours for student in self.students)]
        return None if None in parts else sum(part for part in parts if part is not None)

    def require_used(self, measured: Iterable[str]) -> None:
        """Check that all rates with these names are of CLIP or of a student, so that none is without effect.

        Raises:
            ConfigError: one of them is not.
        """
        known = [TEACHER, *(student.backbone for student in self.students)]
        for name in measured:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise ConfigError(
                    f"the throughput of {name} has no effect, because the run does not use it",
                    f"a throughput of {', '.join(known)}",
                    f"perhaps {near[0]} is meant" if near else "",
                )


def make_plan(config: Config, rates: Mapping[str, float]) -> Plan:
    """The plan of a run.

    Args:
        rates: measured images per second of one GPU: a backbone's training, and `TEACHER` for CLIP's forward pass.
    """
    variants = expand(config)
    configs = [variant.config for variant in variants]
    images = train_images(config.data)
    views = None if images is None else images * config.teacher.views
    clusterings = {clustering_key(it): it for c in configs if c.method.pseudo for it in [c.method.clustering]}
    require_teacher(config.teacher, clusterings.values())
    width, grid = _teacher_shape(config)
    widths = {"dense": width, "value": width, "key": _described(config)["vision_cfg"].get("width", 768)}
    kinds = {clustered_kind(clustering) for clustering in clusterings.values()} or {"dense"}
    described = [clustering for clustering in clusterings.values() if clustering.region_tokens != "none"]
    seen = [config_.train.iterations * config_.train.batch_size for config_ in configs]
    validated = [_validated(config_, images) for config_ in configs]
    return Plan(
        steps=dict.fromkeys(["resolve", "split", "tokens", "teacher", "variants"], 1)
        | dict.fromkeys(["train", "evaluate"], len(variants))
        | dict.fromkeys(["compare", "promote", "finish"], 1),
        trainings=len(variants),
        students=_students(configs, images, rates),
        variants={
            member.label: member.about for variant in variants for member in variant.members if member.trial is None
        },
        trials={
            member.label: member.trial.settings for variant in variants for member in variant.members if member.trial
        },
        images=images,
        views=views,
        validated_images=_sum(validated),
        view_bytes=_record(4 * width)
        + len(clusterings) * _record(grid * grid)
        + len(described) * _record(4 * width * REGIONS),
        dense_bytes=sum(_record(2 * widths[kind] * grid * grid) for kind in kinds),
        passes_per_region=2 * sum(clustering.region_tokens == "crop" for clustering in described),
        attention_passes=_attention(config) * sum(clustering.region_tokens == "attention" for clustering in described),
        teacher_gpu_hours=_hours(views, rates.get(TEACHER)),
        pays_from=None if views is None else views * len(seen) / sum(seen),
        missing=_missing(config, configs),
    )


def read_rates(file: Path | None, given: list[str]) -> dict[str, float]:
    """Measured images per second from a benchmark file, overridden by those given as "NAME=NUMBER".

    Raises:
        ConfigError: the file or a rate cannot be read, or the file is from a machine without a GPU.
    """
    rates: dict[str, Any] = {}
    gpu: str | None = ""
    try:
        if file is not None:
            measured = parse_json(read_text(file, "the file"), str(file))
            gpu, rates = measured["machine"]["gpu"], dict(measured["images_per_second"])
        for item in given:
            name, _, number = item.partition("=")
            rates[name] = float(number)
        checked = TypeAdapter(dict[str, float]).validate_python(rates)
    except (ConfigError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise ConfigError(
            f"cannot read the throughput ({one_line(error)})",
            f"{TEACHER}=150 or segformer_b4=40 (images per second of one GPU), or a file that `make bench` wrote",
        ) from None
    if gpu is None:
        raise ConfigError(
            f"{file} was measured on a machine without a GPU",
            "the rates of a GPU",
            "use the file of `make bench` from the machine that you will train on, or --throughput NAME=NUMBER",
        )
    if bad := [name for name, rate in checked.items() if not 0 < rate < math.inf]:
        raise ConfigError(f"the throughput of {bad[0]} is {checked[bad[0]]}", "more than 0 images per second")
    return checked


def _students(configs: list[Config], images: int | None, rates: Mapping[str, float]) -> list[Student]:
    """The backbones. A validated image counts as much as a trained one: it is larger, but has no backward pass."""
    students = []
    for backbone in dict.fromkeys(config.student.backbone for config in configs):
        mine = [config for config in configs if config.student.backbone == backbone]
        trained = sum(config.train.iterations * config.train.batch_size for config in mine)
        validated = _sum([_validated(config, images) for config in mine])
        students.append(
            Student(
                backbone=backbone,
                trainings=len(mine),
                parameters=_parameters(mine[0]),
                licence=_licence(mine[0]),
                gpu_hours=_hours(None if validated is None else trained + validated, rates.get(backbone)),
            )
        )
    return students


def _validated(config: Config, images: int | None) -> int | None:
    """How many held-out images a training scores in all its validations, if it does not stop early."""
    train = config.train
    if not train.validations:
        return 0
    return None if images is None else train.validations * train.held_out_of(images)


def _sum(parts: list[int | None]) -> int | None:
    return None if None in parts else sum(part for part in parts if part is not None)


def _licence(config: Config) -> str:
    if config.train.init_from:
        return f"that of {config.train.init_from}"
    return licence(config.student.backbone, config.encoder_weights) or ""


def _hours(images: int | None, rate: float | None) -> float | None:
    return None if images is None or rate is None else images / rate / 3600


def _attention(config: Config) -> float:
    """Part of a forward pass of CLIP that `attending_tokens` needs for a view.

    The last blocks compute everything for the tokens of regions, and again the keys and values of all L tokens of width
    E: 2 E^2 multiplications for each token, where a whole block has 12 E^2 + 2 L E.
    """
    tower, tokens = _described(config)["vision_cfg"], _teacher_shape(config)[1] ** 2
    layers, width = tower.get("layers", 12), tower.get("width", 768)
    return min(REGION_BLOCKS, layers - 1) / layers * (1 / (6 + tokens / width) + REGIONS / tokens)


def _record(content: int) -> int:
    """Bytes of an array in a shard: tar header, .npy header and content, padded to whole blocks."""
    return TAR_BLOCK + -(-(NPY_HEADER + content) // TAR_BLOCK) * TAR_BLOCK


def _parameters(config: Config) -> int:
    from cliptea.models import build_student

    student = build_student(config.student.backbone, _teacher_shape(config)[0], random=False)
    return sum(p.numel() for p in student.parameters())


def _teacher_shape(config: Config) -> tuple[int, int]:
    """(D, g) of the teacher at its crop."""
    described = _described(config)
    return described["embed_dim"], config.teacher.crop // patch_size(described)


def _described(config: Config) -> dict[str, Any]:
    """open_clip's description of the teacher."""
    folder = Path(config.teacher.weights or "")
    if config.teacher.source.kind == "demo":
        from cliptea.teacher.pretrain import model_config

        return model_config(config.teacher.crop)
    if (file := folder / "open_clip_config.json").is_file():
        described = described_teacher(config.teacher) or {}
        width, tower = described.get("embed_dim"), described.get("vision_cfg")
        sizes = [width, tower.get("layers", 1), tower.get("width", 1)] if isinstance(tower, dict) else [0]
        if not all(type(size) is int and size > 0 for size in sizes):
            raise ConfigError(f"{file} does not describe a CLIP", "a model_cfg with embed_dim and vision_cfg")
        return described
    import open_clip

    described = open_clip.get_model_config(config.teacher.model)
    if described is None:
        raise ConfigError(
            f"teacher.model={config.teacher.model!r} does not exist", "the name of an open_clip architecture"
        )
    return described


def _missing(config: Config, configs: list[Config]) -> list[str]:
    """What the run needs but is missing, as far as this machine can check without a network."""
    found = []
    for key, root in config.roots.items():
        if root is None:
            found.append(f"data: {key} is not set")
        elif not is_uri(root) and not os.path.isdir(os.path.expanduser(root)):
            found.append(f"data: {key}={root} is not a folder on this machine")
    sources = {f"teacher.weights={config.teacher.weights}": config.teacher.source}
    for given in configs:
        source = weights(given.student.backbone, given.encoder_weights)
        if source is not None:
            sources[f"student.pretrained={given.encoder_weights} (for {given.student.backbone})"] = source
    for name in {given.train.init_from for given in configs if given.train.init_from}:
        if not re.match(r"\w+:/", name) and not os.path.isdir(os.path.expanduser(name)):
            found.append(f"weights: train.init_from={name} is not a folder on this machine")
    for key, source in sources.items():
        if source.kind == "tag":
            found.append(f"weights: {key} will be downloaded; without internet access, set it to a file instead")
        elif source.missing:
            found.append(f"weights: {key} does not exist on this machine")
    if is_remote(env.STORE.get()) and not any(variable.is_set() for variable in env.S3_ENDPOINTS):
        found.append("endpoint: CLIPTEA_S3_ENDPOINT is not set, so s3:// addresses refer to AWS")
    return found
