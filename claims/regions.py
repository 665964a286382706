"""How good the regions of training views are, and what CLIP says of them, measured with masks that training never sees.

Shape legend: g token grid, R regions, D joint width, N classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from benchmarks.measure import interleaved
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from cliptea import device
from cliptea.config import Config
from cliptea.data.catalogue import IGNORE
from cliptea.data.records import REGION_TOKENS, read_array, read_view
from cliptea.data.shards import ShardReader
from cliptea.data.views import choose_view, cut_labels
from cliptea.data.world import CLASSES, World
from cliptea.method.plm import ignored_tokens
from cliptea.method.regions import region_maps
from cliptea.method.vla import region_starts
from cliptea.run import Run
from cliptea.steps.split import Splits, make_splits
from cliptea.steps.teacher import publish_cache
from cliptea.storage import open_store
from cliptea.teacher.clip import open_teacher
from cliptea.teacher.demo_clip import teacher_weights
from cliptea.teacher.outputs import REGION_BLOCKS, clustering_key
from cliptea.teacher.text import load_text
from cliptea.training.batches import mean_region_token

__all__ = ["TrueView", "measure_regions", "teacher_cost", "true_views"]

VIEWS = 1000  # from which ARI and naming are measured


class TrueView(NamedTuple):
    """A training view with all labels, of which training only sees those of seen classes."""

    record: int
    labels_gg: np.ndarray  # the most frequent train id of each token, 255 for none
    unseen_gg: np.ndarray  # bool, tokens of unseen classes


def measure_regions(run: Run) -> dict[str, dict[str, float | None]]:
    """For each variant of a finished run of the demo, the ARI of its regions and how often they get the right name.

    Returns:
        By label of the variant:
        `ari`: adjusted Rand index between regions and true classes, over the tokens of unseen classes of a view;
            the mean over views with two or more unseen classes.
        `naming`: fraction of regions, most of whose tokens belong to one unseen class, for which the text feature of
            that class is the nearest of all classes to CLIP's embedding of the region; None without embeddings.
    """
    store = open_store()
    splits = make_splits(run)
    cache = publish_cache(run, splits)
    grid = cache.tokens.info["grid"]
    views = list(true_views(run.config, splits, grid))
    text_ND = load_text(store, cache.text[run.config.data.dataset])
    measured: dict[str, dict[str, float | None]] = {}
    for variant in run.variants:
        clustering = variant.config.method.clustering
        if variant.seed or not variant.config.method.pseudo:
            continue
        reader = ShardReader(store, cache.regions[clustering_key(clustering)].objects, "regions")
        unseen = splits.own.info["catalogue"]["unseen"]
        seen_ids = [number for number, name in enumerate(CLASSES) if name not in unseen]
        naming = None if clustering.region_tokens == "none" else _naming(reader, views, text_ND, seen_ids)
        for member in variant.members:
            measured[f"{member.group}/{member.variant}"] = {"ari": _ari(reader, views), "naming": naming}
    return measured


def true_views(config: Config, splits: Splits, grid: list[int]) -> Iterator[TrueView]:
    """Training views of the demo, spread over all of them, with the labels that training does not see."""
    catalogue, images = splits.own.info["catalogue"], ShardReader(open_store(), splits.own.objects, "train")
    world, teacher = World(config.data.world, config.data.seed), config.teacher
    unseen_ids = [CLASSES.index(name) for name in catalogue["unseen"]]
    total = len(images) * teacher.views
    for record in range(0, total, max(1, total // VIEWS)):
        image, number = divmod(record, teacher.views)
        _, whole = world.scene("train", image)
        known = whole.copy()
        known[np.isin(whole, unseen_ids)] = IGNORE
        view = choose_view(known, images.name(image), number, teacher, config.data.seed)  # as training does
        cut = cut_labels(whole, view)
        cells = cut.reshape(grid[0], cut.shape[0] // grid[0], grid[1], -1).transpose(0, 2, 1, 3).reshape(*grid, -1)
        labels = np.apply_along_axis(lambda ids: np.bincount(ids, minlength=256).argmax(), 2, cells)
        yield TrueView(record, labels, np.isin(labels, unseen_ids))


def _ari(reader: ShardReader, views: list[TrueView]) -> float | None:
    scores = []
    for view in views:
        regions = read_array(reader, view.record)
        inside = view.unseen_gg & (regions != IGNORE)
        if len(np.unique(view.labels_gg[inside])) > 1:
            scores.append(adjusted_rand_score(view.labels_gg[inside], regions[inside]))
    return float(np.mean(scores)) if scores else None


def _naming(reader: ShardReader, views: list[TrueView], text_ND: Tensor, seen_ids: list[int]) -> float | None:
    mean_D, right = mean_region_token(reader, range(len(reader))), []
    for view in views:
        regions = read_array(reader, view.record)
        tokens_RD = torch.from_numpy(read_array(reader, view.record, REGION_TOKENS))
        if not len(tokens_RD):
            continue
        named_R = (region_starts(tokens_RD[None], mean_D, text_ND[seen_ids])[0] @ text_ND.T).argmax(1).tolist()
        for number, name in enumerate(named_R):
            counts = np.bincount(view.labels_gg[regions == number], minlength=256)
            true = int(counts.argmax())
            if 2 * counts[true] > counts.sum() and view.unseen_gg[view.labels_gg == true].any():
                right.append(name == true)
    return float(np.mean(right)) if right else None


def teacher_cost(run: Run) -> dict[str, float]:
    """Milliseconds of CLIP for a view: its tokens alone, with an attending token for each region, and with pictures.

    Also the number of regions of a view.
    """
    store = open_store()
    splits = make_splits(run)
    config, images = run.config, ShardReader(store, splits.own.objects, "train")
    teacher, where = open_teacher(teacher_weights(store, config), config.teacher), device.best()
    views = [read_view(images, image, 0, config.teacher, config.data.seed) for image in range(min(64, len(images)))]
    images_BCC3, labels_BCC, valid_BCC = (
        torch.from_numpy(np.stack(part)).to(where) for part in zip(*views, strict=True)
    )
    images_B3CC = images_BCC3.permute(0, 3, 1, 2)
    encoded = teacher.encode(images_B3CC, valid_BCC, ["dense"], REGION_BLOCKS)
    ignored_Bgg = ignored_tokens(labels_BCC, valid_BCC, teacher.grid)
    maps_Bgg = region_maps(encoded.tokens["dense"], ignored_Bgg, config.method.clustering)

    def finish() -> None:
        if where.type == "cuda":
            torch.cuda.synchronize()

    def plain() -> None:
        teacher.encode(images_B3CC, valid_BCC, ["dense"])
        finish()

    def attention() -> None:
        found = teacher.encode(images_B3CC, valid_BCC, ["dense"], REGION_BLOCKS)
        teacher.region_tokens(found.inputs, maps_Bgg)
        finish()

    def crop() -> None:
        plain()
        teacher.picture_tokens(images_B3CC, valid_BCC, maps_Bgg, config.teacher.batch_size)
        finish()

    timed = interleaved(5, plain, attention, crop)
    names = ("view", "view and attention", "view and crop")
    cost = {name: 1000 * median(seconds) / len(views) for name, seconds in zip(names, timed, strict=True)}
    regions = [len(np.unique(one[one != IGNORE])) for one in maps_Bgg.cpu().numpy()]
    return cost | {"regions of a view": float(np.mean(regions))}
