"""Self-training in the transductive setting: an averaged student and CLIP give regions the names of unseen classes.

Not in the paper; docs/method.md describes the rule and its source.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cliptea.config import MethodConfig, TrainConfig
from cliptea.method import naming, plm
from cliptea.method.losses import FeatureNorm
from cliptea.training.batches import Batch
from cliptea.training.distributed import World
from cliptea.training.loss_terms import TextFeatures

__all__ = ["SelfTraining"]


class SelfTraining:
    """The averaged student, and the margins of the names it has given. They are the same in every process.

    Args:
        student: the student in training, whose average is kept.
        text: with the text features of the unseen classes and the mean of the embeddings of regions.
    """

    def __init__(self, student: nn.Module, text: TextFeatures, method: MethodConfig, train: TrainConfig) -> None:
        assert text.unseen_UD is not None
        config = method.transductive
        self._text, self._config = text, config
        self._norm: FeatureNorm = method.feature_norm
        self._temperature = method.temperature
        self._first, self._parts = config.start * train.iterations, train.accumulate
        self._average = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True)
        self._average.eval().requires_grad_(False)
        self._margins = naming.MarginMemory(len(text.unseen_UD))

    def update(self, student: nn.Module) -> None:
        """Move the average towards the student, after each iteration."""
        self._average.update_parameters(student)

    @torch.no_grad()
    def name_regions(self, batch: Batch, iteration: int, world: World) -> tuple[Batch, Tensor | None]:
        """The batch with regions of one name joined, and (B, R) int64 unseen classes of its regions, -1 for no name.

        Before `transductive.start`, the batch is returned as it is, with None.
        """
        if iteration < self._first:
            return batch, None
        tokens_BRD = batch.region_tokens_BRD
        scores_BRN = self._scores(batch)
        mirrored_BRN = scores_BRN
        if self._config.flips:
            images, regions = batch.images_B3CC.flip(3), batch.regions_Bgg.flip(2)
            mirrored_BRN = self._scores(batch._replace(images_B3CC=images, regions_Bgg=regions))
        text_ND, num_seen = self._text.names_ND, len(self._text.seen_SD)
        starts_BRD, present_BR = self._text.starts(tokens_BRD), tokens_BRD.any(2)
        own = naming.name_regions(
            starts_BRD, present_BR, scores_BRN, mirrored_BRN, text_ND, num_seen, self._temperature
        )
        everywhere = naming.Named(*(world.concat(rows_BR, self._parts) for rows_BR in own))
        names_BR = world.own(self._margins.accept(everywhere, self._config.quantile), self._parts)
        regions_Bgg = naming.merged_regions(batch.regions_Bgg, names_BR)
        # The embeddings of regions that were joined to another one are no negatives of the joined region.
        numbers_R1 = torch.arange(tokens_BRD.shape[1], device=regions_Bgg.device)[:, None]
        left_BR = (regions_Bgg.flatten(1)[:, None] == numbers_R1).any(2)
        joined = batch._replace(regions_Bgg=regions_Bgg, region_tokens_BRD=tokens_BRD * left_BR[..., None])
        return joined, names_BR

    def _scores(self, batch: Batch) -> Tensor:
        """(B, R, N) what the averaged student says of each region."""
        most, found = batch.region_tokens_BRD.shape[1], []
        size = len(batch.images_B3CC) // self._parts
        for images, regions in zip(batch.images_B3CC.split(size), batch.regions_Bgg.split(size), strict=True):
            features = self._average(images)
            at_features = plm.reduce_labels(regions, (features.shape[2], features.shape[3]))
            found.append(naming.region_scores(features, at_features, self._text.names_ND, most, self._norm))
        return torch.cat(found)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self._average.state_dict(), "margins": self._margins.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._average.load_state_dict(state["average"])
        self._margins.load_state_dict(state["margins"])
