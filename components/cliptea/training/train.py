"""The train step: one student, from stored tokens to a model in the store. CLIP is not loaded here."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from cliptea import progress
from cliptea.config import Config
from cliptea.data.split import Splits
from cliptea.manifest import Manifest, Output, find, fingerprint
from cliptea.models.backbones import weights
from cliptea.storage import open_store
from cliptea.teacher.cache import TeacherCache, clustering_key

if TYPE_CHECKING:
    from cliptea.runs import Run, Variant

__all__ = ["KIND", "train_fingerprint", "train_variant"]

KIND = "train"


def train_variant(run: Run, variant: dict[str, Any], splits: dict[str, Any], teacher: dict[str, Any]) -> dict[str, Any]:
    """Train one variant, or go on from its last checkpoint; returns the manifest of the model.

    Under torchrun this is one of its processes. Elsewhere training is in this process, or in `train.processes` that
    this one starts.
    """
    from cliptea.runs import Variant

    chosen = Variant.model_validate(variant)
    config, store = chosen.config, open_store()
    images, cache = Splits.model_validate(splits).own, TeacherCache.model_validate(teacher)
    fp = train_fingerprint(config, chosen.seed, images, cache)
    done = find(store, Output(KIND, fp))
    if done is not None:
        progress.reused()
    elif config.train.processes > 1 and "WORLD_SIZE" not in os.environ:
        from cliptea.training.launch import Inputs, launch

        launch(
            store,
            f"{KIND}/{fp}",
            Inputs.model_validate({"run": run, "variant": chosen, "splits": splits, "teacher": teacher}),
        )
        done = find(store, Output(KIND, fp))
        assert done is not None, "training ended well and left no model"
    else:
        done = _train_here(run, chosen, config, fp, images, cache)
    return done.model_dump()


def _train_here(run: Run, variant: Variant, config: Config, fp: str, images: Manifest, cache: TeacherCache) -> Manifest:
    from cliptea.tracking.curves import curve_log
    from cliptea.training.distributed import join
    from cliptea.training.loop import train_student

    epoch = images.info["counts"]["train"]["images"] / config.train.batch_size
    with join() as world, curve_log(run, variant, epoch) if world.is_first else nullcontext(lambda curves: None) as log:
        return train_student(open_store(), f"{KIND}/{fp}", config, variant.seed, images, cache, log, world)


def train_fingerprint(config: Config, seed: int, split: Manifest, teacher: TeacherCache) -> str:
    """Over everything that decides a student's weights; how data are loaded and checkpoints kept does not.

    Nor do the number of processes, memory layout and compilation: they change the rounding (and see `trainer`).
    """
    regions = teacher.regions[clustering_key(config.method.clustering)].fingerprint if config.method.pseudo else ""
    quiet = {"checkpoint_every", "keep_checkpoints", "workers", "processes", "compile", "channels_last"}
    return fingerprint(
        KIND,
        student=config.student.model_dump(include={"backbone", "dropout"}),
        initial_weights=_initial_weights(config),
        train=config.train.model_dump(exclude=quiet),
        method=config.method,
        seed=seed,
        split=split.fingerprint,
        tokens=teacher.tokens.fingerprint,
        text=teacher.text[config.data.dataset].fingerprint,
        regions=regions,
    )


def _initial_weights(config: Config) -> list[str | int]:
    """What changes when the weights that training starts from do; empty for random ones."""
    source = weights(config.student.backbone, config.student.initial_weights)
    if source is None:
        return []
    return source.state() if source.is_file else [source.text]
