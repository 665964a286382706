"""Batches of views with their teacher tokens, in an order that only depends on (seed, iteration).

Item k of a run is view `permutation(k // n)[k % n]` of the n training views, and its random choices only depend on
(seed, k). So a run can resume at any iteration without replaying the earlier ones, with any number of loading
processes. Each micro-batch of an iteration (`train.accumulate`) is divided among the training processes in the order of
its items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info
from torchvision.transforms.v2 import functional as F

from cliptea import watchdog
from cliptea.config import Config
from cliptea.data.ahead import ahead
from cliptea.data.catalogue import IGNORE
from cliptea.data.records import REGION_TOKENS, read_array, read_view
from cliptea.data.shards import ShardReader
from cliptea.data.views import generator
from cliptea.errors import portable
from cliptea.segment.normalise import normalise
from cliptea.training.distributed import ALONE, World

__all__ = ["Batch", "TrainingData", "batches", "mean_region_token", "photometric"]


class Batch(NamedTuple):
    """A batch. Shapes: B views, C crop, D teacher width, g token grid, R regions of a view (padded, or 0)."""

    images_B3CC: Tensor  # float32, normalised
    labels_BCC: Tensor  # int64 seen index, or 255
    valid_BCC: Tensor  # bool, False on padding
    cls_BD: Tensor  # float32
    regions_Bgg: Tensor  # uint8 region number, or 255
    region_tokens_BRD: Tensor  # float32, CLIP's embeddings of regions if the method uses them; zero for padding
    image_ids_B: Tensor  # int64

    def to(self, device: torch.device) -> Batch:
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


class TrainingData(NamedTuple):
    """The training data: photos with seen labels, and the teacher's output for them.

    Attributes:
        held_out: numbers of the images that are held out for validation. No view of them is trained on.
    """

    images: ShardReader  # train shards
    cls: ShardReader  # CLS tokens
    regions: ShardReader | None  # region maps, if the method uses them
    grid: tuple[int, int]  # height and width of the region maps
    seen_ids: list[int]  # train ids of the seen classes
    region_mean_D: Tensor | None = None  # mean of CLIP's embeddings of regions, if the method uses them
    held_out: Sequence[int] = ()

    @property
    def trained(self) -> np.ndarray:
        """Numbers of the images that are trained on, in ascending order."""
        return np.setdiff1d(np.arange(len(self.images)), np.array(self.held_out, dtype=np.int64))

    @property
    def seen_index(self) -> np.ndarray:
        """(256,) int64: the seen index of each train id, 255 for all others."""
        table = np.full(256, IGNORE, dtype=np.int64)
        table[self.seen_ids] = np.arange(len(self.seen_ids))
        return table


class _Views(Dataset):
    def __init__(self, config: Config, data: TrainingData, seed: int) -> None:
        self.config, self.seed = config, seed
        self.images, self.cls, self.regions, self.grid = data.images, data.cls, data.regions, data.grid
        mean_D, self.seen_index, self.trained = data.region_mean_D, data.seen_index, data.trained
        self.region_tokens = (0, 0) if mean_D is None else (config.method.clustering.max_regions, len(mean_D))
        self.order: tuple[int, np.ndarray] = (-1, np.empty(0))

    def __getitem__(self, item: int) -> tuple[Tensor, ...]:
        number_of_views = len(self.trained) * self.config.teacher.views
        epoch, position = divmod(item, number_of_views)
        order = self.order
        if order[0] != epoch:
            numbers = np.arange(number_of_views, dtype=np.int32)
            order = self.order = epoch, generator("order", self.seed, epoch).permutation(numbers)
        place, number = divmod(int(order[1][position]), self.config.teacher.views)
        return self._view(int(self.trained[place]), number, generator("student", self.seed, item))

    def __getitems__(self, items: Sequence[int]) -> list[tuple[Tensor, ...]] | Exception:
        """The views of a batch. A remote store is read in parallel, since most of the time is spent waiting for it.

        A loading process returns its error, because DataLoader would raise another one, with a traceback as its text.
        """
        try:
            return list(ahead(self.__getitem__, items)) if self.images.remote else [self[item] for item in items]
        except Exception as error:
            if get_worker_info() is None:
                raise
            return portable(error)

    def _view(self, image_id: int, number: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
        config, record = self.config, image_id * self.config.teacher.views + number
        view = read_view(self.images, image_id, number, config.teacher, config.data.seed)
        regions = np.full(self.grid, IGNORE, dtype=np.uint8)
        tokens = np.zeros(self.region_tokens, dtype=np.float32)
        if self.regions is not None:
            regions = read_array(self.regions, record)
            if len(tokens):
                found = read_array(self.regions, record, REGION_TOKENS)
                tokens[: len(found)] = found
        arrays = [view.image, self.seen_index[view.labels], view.valid, regions]
        if rng.random() < config.train.flip:
            arrays = [array[:, ::-1] for array in arrays]
        image, labels, valid, regions = (torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
        image = image.permute(2, 0, 1)
        if config.train.photometric:
            image = photometric(image, rng)
        cls = torch.from_numpy(read_array(self.cls, record))
        image_id_0 = torch.tensor(image_id)
        return normalise(image) * valid, labels, valid, cls, regions, torch.from_numpy(tokens), image_id_0


def mean_region_token(regions: ShardReader, records: Sequence[int], views: int = 4096) -> Tensor:
    """(D,) float32, the mean of CLIP's embeddings of regions, over at most `views` views spread over the records."""
    chosen = records[:: -(-len(records) // views)]
    tokens = list(ahead(lambda record: read_array(regions, record, REGION_TOKENS), chosen))
    every_RD = torch.from_numpy(np.concatenate(tokens))
    return every_RD.double().sum(0).float() / max(1, len(every_RD))


def batches(config: Config, data: TrainingData, seed: int, start: int = 0, world: World = ALONE) -> Iterator[Batch]:
    """This process's images of each batch, from the iteration `start` to the end.

    A micro-batch has the same images for any number of processes.
    """
    train = config.train
    part = train.batch_size // train.accumulate
    own = part // world.size
    firsts = [number * part + world.rank * own for number in range(train.accumulate)]
    shown = (
        [it * train.batch_size + first + number for first in firsts for number in range(own)]
        for it in range(start, train.iterations)
    )
    loader = DataLoader(
        _Views(config, data, seed),
        batch_sampler=list(shown),
        collate_fn=_collated,
        num_workers=train.workers,
        worker_init_fn=_begin,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # a separate one, so that loading does not advance the generator for dropout
    )
    with watchdog.inherited():
        loaded = iter(loader)
    try:
        for tensors in loaded:
            if isinstance(tensors, Exception):
                raise tensors
            yield Batch(*tensors)
    finally:
        del loaded  # ends the loading processes at once; as part of an error, they would only end after ten seconds


def photometric(image_3HW: Tensor, rng: np.random.Generator) -> Tensor:
    """Change brightness by +-32, contrast and saturation by 0.5-1.5, hue by +-18 of 180, each with probability 0.5.

    Ranges and order are those of MMSegmentation: contrast changes before or after saturation and hue.

    Args:
        image_3HW: (3, H, W) uint8 RGB.
        rng: source of randomness.

    Returns:
        (3, H, W) float32, whole numbers from 0 to 255.
    """
    image_3HW = image_3HW.float() / 255
    brightness, contrast_first, contrast, saturation, hue = rng.random(5) < 0.5
    if brightness:
        image_3HW = (image_3HW + rng.uniform(-32, 32) / 255).clamp(0, 1)
    factor = rng.uniform(0.5, 1.5)
    if contrast and contrast_first:
        image_3HW = (image_3HW * factor).clamp(0, 1)
    if saturation:
        image_3HW = F.adjust_saturation(image_3HW, rng.uniform(0.5, 1.5))
    if hue:
        image_3HW = F.adjust_hue(image_3HW, rng.uniform(-0.1, 0.1))
    if contrast and not contrast_first:
        image_3HW = (image_3HW * factor).clamp(0, 1)
    return (image_3HW * 255).round()


def _collated(views: list[tuple[Tensor, ...]] | Exception) -> list[Tensor] | Exception:
    return views if isinstance(views, Exception) else default_collate(views)


def _begin(worker: int) -> None:
    # SIGTERM reaches all processes at the same time, but the training process still has to finish its step.
    watchdog.follow_parent()
