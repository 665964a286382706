"""The global batch of an iteration, and the micro-batches into which each process splits its part.

Shape legend: B images of a micro-batch, W images of the global batch, C crop, D width, g token grid, h w feature size,
S seen classes, P pseudo classes of an image, L loss size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cliptea.config import MethodConfig
from cliptea.method import losses, plm
from cliptea.method.naming import NOT_NAMED
from cliptea.training.batches import Batch
from cliptea.training.distributed import ALONE, World

__all__ = ["Denominators", "GlobalBatch", "MicroBatch"]


class MicroBatch(NamedTuple):
    """Images of one process that go through the network together."""

    images_B3CC: Tensor  # float32, normalised
    labels_BCC: Tensor  # int64: seen index, S + region of that image, or 255
    valid_BCC: Tensor  # bool, False on padding
    cls_BD: Tensor  # float32
    region_tokens_BRD: Tensor  # float32, zero for padding; R may be 0
    names_BP: Tensor  # int64, unseen class that a region is trained as, or -1
    first: int  # number of its first image in the global batch


class Denominators(NamedTuple):
    """The denominators of the pixel losses for the global batch, as int64 scalars."""

    pixels: Tensor  # number of labelled pixels
    pairs: Tensor  # number of (image, present class) pairs
    regions: Tensor  # number of regions with a position in the feature map


class GlobalBatch:
    """What a micro-batch needs from all images. It is computed from teacher tokens and labels, without the network.

    Args:
        batch: the images of this process.
        num_seen: S, the number of seen classes.
        config: the method's settings.
        world: the training processes.
        names_BR: (B, R) int64, unseen class of each region or -1, in the transductive setting.
        accumulate: number of micro-batches into which each process divides its images.

    Attributes:
        cls_WD: (W, D) float32, CLS tokens of all processes.
        image_ids_W: (W,) int64.
        regions_W: (W,) int64, number of regions of each image.
        share: the fraction of the global batch that a micro-batch contains.
    """

    def __init__(
        self,
        batch: Batch,
        num_seen: int,
        config: MethodConfig,
        world: World = ALONE,
        accumulate: int = 1,
        names_BR: Tensor | None = None,
    ) -> None:
        self.world, self.share = world, 1 / (world.size * accumulate)
        self._num_seen, self._loss_size = num_seen, config.losses.size
        self._batch, self._labels_BCC = batch, batch.labels_BCC
        regions_B = torch.zeros_like(batch.image_ids_B)
        if config.pseudo:
            self._labels_BCC, regions_B = plm.pseudo_labels(
                batch.labels_BCC, batch.valid_BCC, batch.regions_Bgg, num_seen
            )
        self.cls_WD = world.concat(batch.cls_BD, accumulate)
        self.image_ids_W = world.concat(batch.image_ids_B, accumulate)
        self.regions_W = world.concat(regions_B, accumulate)
        most = int(self.regions_W.max())
        self._names_BP = torch.full((len(regions_B), most), NOT_NAMED, device=regions_B.device)
        if names_BR is not None:
            self._names_BP = names_BR[:, :most]
        self.region_tokens_WRD = world.concat(batch.region_tokens_BRD[:, :most], accumulate)
        self._accumulate, self._denominators = accumulate, None

    def micro_batches(self) -> Iterator[MicroBatch]:
        """The micro-batches of this process, which all have the same number of images."""
        batch, number = self._batch, len(self._batch.image_ids_B)
        step = number // self._accumulate
        for start in range(0, number, step):
            own = slice(start, start + step)
            first = start * self.world.size + self.world.rank * step
            yield MicroBatch(
                batch.images_B3CC[own],
                self._labels_BCC[own],
                batch.valid_BCC[own],
                batch.cls_BD[own],
                batch.region_tokens_BRD[own, : self._names_BP.shape[1]],
                self._names_BP[own],
                first,
            )

    def denominators(self, size: tuple[int, int]) -> Denominators:
        """The denominators over all processes. They are computed once.

        Args:
            size: (h, w) of the features. A region without any position at this size does not count as a class.
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
            self._denominators = Denominators(*self.world.total(torch.stack([pixels, pairs, present_BP.sum()])))
        return self._denominators
