"""Which regions self-training names, measured with masks that training never sees: does unlabelled stuff survive?"""

from __future__ import annotations

from typing import Any

import numpy as np
import safetensors.torch
import torch

from claims.regions import TrueView, true_views
from cliptea import device
from cliptea.data.catalogue import IGNORE, Catalogue
from cliptea.data.records import REGION_TOKENS, read_array, read_view
from cliptea.manifest import find, read_object
from cliptea.run import Run
from cliptea.segment.normalise import normalise
from cliptea.segment.segmenter import load_student
from cliptea.steps.split import make_splits
from cliptea.steps.teacher import publish_cache
from cliptea.steps.train import TrainInputs, model_output, training_data
from cliptea.storage import open_store
from cliptea.training.batches import Batch, TrainingData
from cliptea.training.distributed import ALONE
from cliptea.training.self_training import SelfTraining

__all__ = ["measure_names"]

# The rule of docs/method.md, and the same without one of its conditions.
RULES: dict[str, dict[str, Any]] = {
    "the rule": {},
    "without mirror images": {"flips": False},
    "without a margin": {"quantile": 0.0},
    "without both": {"flips": False, "quantile": 0.0},
}


def measure_names(run: Run) -> dict[str, dict[str, float]]:
    """What happens to regions at the end of training, for each rule. Mean over the transductive students of a run.

    The averaged student of training is not stored, so the trained one is used in its place.

    Returns:
        `named`: fraction of the regions of an unseen class that get a name, `right`: fraction of these names that are
        right, `stuff`: fraction of the regions without any class that get a name, `seen`: the same for regions of a
        seen class, which are the edges of labelled areas. A region belongs to the class of most of its tokens.
    """
    store = open_store()
    splits = make_splits(run)
    cache = publish_cache(run, splits)
    catalogue = Catalogue.model_validate(splits.own.info["catalogue"])
    views = list(true_views(run.config, splits, cache.tokens.info["grid"]))
    found: dict[str, list[np.ndarray]] = {rule: [] for rule in RULES}
    for variant in run.variants:
        config = variant.config
        if not config.method.transductive.names:
            continue
        inputs = TrainInputs(run=run, variant=variant, splits=splits, teacher=cache)
        trained = find(store, model_output(inputs))
        assert trained is not None, f"{variant.label} is not trained"
        weights = safetensors.torch.load(read_object(store, trained.objects["model.safetensors"]))
        dim = int(trained.info["dim"])
        student = load_student(config.student.backbone, dim, weights, config.method.feature_norm).to(device.best())
        data, text = training_data(store, config, splits, cache)
        for rule, changed in RULES.items():
            method = config.method.model_copy(
                update={"transductive": config.method.transductive.model_copy(update=changed)}
            )
            naming = SelfTraining(student, text.to(device.best()), method, config.train)
            size, rows = config.train.batch_size, []
            for first in range(0, len(views) - size + 1, size):
                part = views[first : first + size]
                batch = _batch(part, run, data, config.method.clustering.max_regions)
                _, names_BR = naming.name_regions(batch, config.train.iterations, ALONE)
                assert names_BR is not None
                rows += _counted(part, batch, names_BR.cpu().numpy(), catalogue)
            found[rule].append(np.array(rows))
    return {rule: _shares(np.concatenate(rows), catalogue) for rule, rows in found.items() if rows}


def _batch(views: list[TrueView], run: Run, data: TrainingData, most: int) -> Batch:
    """The views as training sees them, without labels and CLS tokens, which naming does not use."""
    assert data.regions is not None
    images, regions, tokens = [], [], []
    for view in views:
        image_id, number = divmod(view.record, run.config.teacher.views)
        seen = read_view(data.images, image_id, number, run.config.teacher, run.config.data.seed)
        image = torch.from_numpy(np.ascontiguousarray(seen.image)).permute(2, 0, 1)
        images.append(normalise(image) * torch.from_numpy(seen.valid))
        regions.append(torch.from_numpy(read_array(data.regions, view.record)))
        own_RD = torch.from_numpy(read_array(data.regions, view.record, REGION_TOKENS))
        tokens.append(torch.nn.functional.pad(own_RD, (0, 0, 0, most - len(own_RD))))
    none = torch.empty(0)
    made = Batch(torch.stack(images), none, none, none, torch.stack(regions), torch.stack(tokens), none)
    return made.to(device.best())


def _counted(views: list[TrueView], batch: Batch, names_BR: np.ndarray, catalogue: Catalogue) -> list[tuple[int, int]]:
    """The true class (255 for none) and the given class (-1 for none) of each region."""
    rows = []
    for view, regions_gg, names_R in zip(views, batch.regions_Bgg.cpu().numpy(), names_BR, strict=True):
        for number, name in enumerate(names_R):
            inside = view.labels_gg[regions_gg == number]
            if inside.size:
                true = int(np.bincount(inside, minlength=256).argmax())
                rows.append((true, -1 if name < 0 else catalogue.unseen_ids[name]))
    return rows


def _shares(rows: np.ndarray, catalogue: Catalogue) -> dict[str, float]:
    true, given = rows.T
    unseen, named = np.isin(true, catalogue.unseen_ids), given >= 0
    parts = {
        "named": named[unseen],
        "right": (true == given)[unseen & named],
        "stuff": named[true == IGNORE],
        "seen": named[np.isin(true, catalogue.seen_ids)],
    }
    return {name: float(part.mean()) for name, part in parts.items()}
