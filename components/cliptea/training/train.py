"""The train step: one student, from stored tokens to a model in the store. CLIP is not loaded here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cliptea import progress
from cliptea.config import Config
from cliptea.data.split import Splits
from cliptea.errors import ConfigError
from cliptea.manifest import Manifest, find, fingerprint
from cliptea.models.registry import is_file, weights
from cliptea.storage import open_store, state
from cliptea.teacher.cache import TeacherCache, clustering_key

if TYPE_CHECKING:
    from cliptea.runs import Run

__all__ = ["train_fingerprint", "train_variant"]

VERSION = 2
KIND = "train"


def train_variant(run: Run, variant: dict[str, Any], splits: dict[str, Any], teacher: dict[str, Any]) -> dict[str, Any]:
    """Train one variant, or go on from its last checkpoint; returns the manifest of the model."""
    from cliptea.runs import Variant

    chosen = Variant.model_validate(variant)
    config, store = chosen.config(run.config), open_store()
    images, cache = Splits.model_validate(splits).own, TeacherCache.model_validate(teacher)
    fp = train_fingerprint(config, chosen.seed, images, cache)
    done = find(store, KIND, fp)
    if done is not None:
        progress.reused()
        return done.model_dump()
    if config.train.processes > 1:
        raise ConfigError(f"train.processes={config.train.processes}", "1: training is by one process so far")

    from cliptea.tracking.runs import ChildRun
    from cliptea.training.loop import train_student

    tracked = ChildRun.open(run, chosen)
    return train_student(store, f"{KIND}/{fp}", config, chosen.seed, images, cache, tracked.log_curves).model_dump()


def train_fingerprint(config: Config, seed: int, split: Manifest, teacher: TeacherCache) -> str:
    """Over everything that decides a student's weights; how data are loaded and checkpoints kept does not."""
    regions = teacher.regions[clustering_key(config.method.clustering)].fingerprint if config.method.pseudo else ""
    quiet = {"checkpoint_every", "workers", "processes"}
    return fingerprint(
        KIND,
        VERSION,
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
    return list(state(source)) if is_file(source) else [source]
