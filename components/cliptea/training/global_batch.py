"""The global batch of an iteration, and the micro-batches in which each process goes through its part of it.

Shape legend: B images of a micro-batch, W of the global batch, C crop, D width, g token grid, h w feature size, S seen
classes, P pseudo classes of an image, L loss size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cliptea.config import MethodConfig
from cliptea.method import losses, plm
from cliptea.training.batches import Batch
from cliptea.training.distributed import ALONE, World

__all__ = ["Denominators", "GlobalBatch", "MicroBatch"]


class MicroBatch(NamedTuple):
    """Some images of one process that go through the network together."""

    images_B3CC: Tensor  # float32, normalised
    labels_BCC: Tensor  # int64: seen index, S + region of that image, or 255
    valid_BCC: Tensor  # bool, False on padding
    cls_BD: Tensor  # float32
    first: int  # number of its first image in the global batch


class Denominators(NamedTuple):
    """What the pixel losses of the global batch are divided by; scalar int64."""

    pixels: Tensor  # labelled ones
    pairs: Tensor  # (image, present class) pairs


class GlobalBatch:
    """What a micro-batch needs to know of all images: it follows from teacher tokens and labels, before any network.

    Args:
        batch: this process's images.
        num_seen: S.
        config: the method's settings.
        world: the processes.
        accumulate: micro-batches that each process divides its images into.

    Attributes:
        cls_WD: (W, D) float32, CLS tokens of all processes.
        image_ids_W: (W,) int64.
        regions_W: (W,) int64, numbers of regions.
        share: what part of the global batch a micro-batch is.
    """

    def __init__(
        self, batch: Batch, num_seen: int, config: MethodConfig, world: World = ALONE, accumulate: int = 1
    ) -> None:
        self.world, self.share = world, 1 / (world.size * accumulate)
        self._num_seen, self._loss_size = num_seen, config.losses.size
        self._batch, self._labels_BCC = batch, batch.labels_BCC
        regions_B = torch.zeros_like(batch.image_ids_B)
        if config.pseudo:
            self._labels_BCC, regions_B = plm.pseudo_labels(
                batch.labels_BCC, batch.valid_BCC, batch.regions_Bgg, num_seen
            )
        self.cls_WD, self.image_ids_W = world.concat(batch.cls_BD), world.concat(batch.image_ids_B)
        self.regions_W = world.concat(regions_B)
        self._accumulate, self._denominators = accumulate, None

    def micro_batches(self) -> Iterator[MicroBatch]:
        """Those of this process, of equal numbers of images."""
        batch, number = self._batch, len(self._batch.image_ids_B)
        step = number // self._accumulate
        for start in range(0, number, step):
            own = slice(start, start + step)
            first = self.world.rank * number + start
            yield MicroBatch(
                batch.images_B3CC[own], self._labels_BCC[own], batch.valid_BCC[own], batch.cls_BD[own], first
            )  # fmt: skip

    def denominators(self, size: tuple[int, int]) -> Denominators:
        """Counted over all processes, once.

        Args:
            size: (h, w) of the features: a region that misses every position there is no class.
        """
        if self._denominators is None:
            num_pseudo, labels_BCC = int(self.regions_W.max()), self._labels_BCC
            reduced_Bhw = plm.reduce_labels(labels_BCC, size)
            every_BX = torch.ones(len(labels_BCC), self._num_seen + num_pseudo, device=labels_BCC.device).bool()
            present_BP = losses.present_pairs(reduced_Bhw, every_BX)[:, self._num_seen :]
            mask_BX = losses.class_mask(self._num_seen, present_BP)
            labels_BLL = labels_BCC if self._loss_size == "image" else reduced_Bhw
            pairs = losses.present_pairs(labels_BLL, mask_BX).sum()
            pixels = losses.labelled_pixels(labels_BLL, mask_BX)
            self._denominators = Denominators(*self.world.total(torch.stack([pixels, pairs])))
        return self._denominators
