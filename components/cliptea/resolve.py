"""The resolve step: settings and data are checked and digested, and the tracking run is opened. Never cached."""

from __future__ import annotations

import os

from cliptea import progress, settings
from cliptea.config import Config
from cliptea.data.catalogue import Catalogue
from cliptea.data.datasets import open_dataset
from cliptea.data.shard_cache import open_cache
from cliptea.errors import ConfigError
from cliptea.manifest import fingerprint
from cliptea.models.backbones import licence, require
from cliptea.runs import ROOM, Run, expand, require_room
from cliptea.storage import open_store

__all__ = ["check", "start_run"]


def check(config: Config) -> Catalogue:
    """Refuse settings that do not fit the data set or the registries, before any work.

    Raises:
        ConfigError, DataError: one line each.
    """
    for variant in expand(config):
        student = variant.config.student
        require(student.backbone)
        licence(student.backbone, student.initial_weights)  # refuses weights that cannot be
    _require_weights(config)
    for name, further in config.evaluation.sets.items():
        _ = open_dataset(further.data(name, config.data)).catalogue
    return open_dataset(config.data).catalogue


def _require_weights(config: Config) -> None:
    """Refuse a local teacher that is not there, before the data are split; hubs and buckets are asked later."""
    if config.teacher.source.missing:
        raise ConfigError(
            f"teacher.weights={config.teacher.weights}: there is no such file or folder",
            "CLIP weights, a pre-training tag such as openai, or demo",
        )


def start_run(preset: str, overrides: list[str], job_id: str) -> Run:
    """Resolve the settings, digest the data, and open (or go on with) the tracking run. Never cached."""
    from cliptea.tracking import runs as tracked
    from cliptea.tracking.client import persist

    config = settings.load(preset, overrides)
    check(config)
    if (room := os.environ.get(ROOM)) and "CLIPTEA_EVENTS" not in os.environ:
        require_room(len(expand(config)), int(room))
    open_cache(open_store())  # refuses addresses and sizes that cannot be, before any work
    digest = open_dataset(config.data).digest()
    further = {name: wanted.data(name, config.data) for name, wanted in config.evaluation.sets.items()}
    others = {name: open_dataset(data).digest(["val"]) for name, data in further.items()}
    fp = fingerprint("run", config=config, data=digest, others=others)
    run = Run(
        config=config,
        data_digest=digest,
        evaluation_digests=others,
        fingerprint=fp,
        job_id=job_id,
        tracking_run="",
        variants=expand(config),
    )
    parent = persist(lambda: tracked.open_parent(run))
    progress.publish(tracking_run=parent)
    _sweep()
    return run.model_copy(update={"tracking_run": parent})


def _sweep() -> None:
    """Close earlier runs that ended without a word. Whatever is wrong with them, this run goes on."""
    from cliptea.tracking.state import sweep

    try:
        for closed in sweep():
            progress.note(f"an earlier run, {closed}")
    except Exception as error:
        text = " ".join(str(error).split())
        progress.warn(f"earlier runs that ended without a word are not closed: {type(error).__name__}: {text}")
