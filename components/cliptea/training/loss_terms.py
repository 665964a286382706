"""The losses of one training step, which combine the modules of `cliptea.method` (eq. 11 and 12).

Shape legend: B images of a micro-batch, W images of the global batch, A images of this micro-batch in all processes,
C crop, D width, h w feature size, S seen classes, P pseudo classes of an image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cliptea.config import MethodConfig
from cliptea.method import glm, losses, plm, vla
from cliptea.method.local_contrast import local_loss
from cliptea.method.naming import NOT_NAMED
from cliptea.method.pixel_losses import PixelWeights, pixel_losses
from cliptea.training.global_batch import GlobalBatch, MicroBatch

__all__ = ["Terms", "TextFeatures", "method_losses"]

Terms = dict[str, Tensor]


class TextFeatures(NamedTuple):
    """What training knows of the classes, and of CLIP's embeddings of regions."""

    seen_SD: Tensor  # unit-norm text features of the seen classes
    unseen_UD: Tensor | None = None  # of the unseen ones, in the transductive setting only
    region_mean_D: Tensor | None = None  # mean of the embeddings of regions, if the method uses them

    @property
    def names_ND(self) -> Tensor:
        """All known text features, the seen classes first."""
        return self.seen_SD if self.unseen_UD is None else torch.cat([self.seen_SD, self.unseen_UD])

    def starts(self, tokens_BRD: Tensor) -> Tensor:
        """(B, R, D) embeddings of regions, moved to where text features lie."""
        assert self.region_mean_D is not None
        return vla.region_starts(tokens_BRD, self.region_mean_D, self.seen_SD)

    def to(self, device: torch.device) -> TextFeatures:
        unseen_UD, mean_D = (None if tensor is None else tensor.to(device) for tensor in self[1:])
        return TextFeatures(self.seen_SD.to(device), unseen_UD, mean_D)


def method_losses(
    features_BDhw: Tensor,
    adapter: vla.Adapter,
    micro_batch: MicroBatch,
    global_batch: GlobalBatch,
    text: TextFeatures,
    bank: glm.TokenBank,
    config: MethodConfig,
) -> Terms:
    """The weighted share of a micro-batch in every enabled loss term, and their sum `total`.

    The shares of all micro-batches and processes add up to the terms of the global batch, for any number of processes.
    With several micro-batches, the contrast with all CLS tokens and all denominators still use the global batch.
    Centroids (eq. 7), the classes generated from them and eq. 8 use one micro-batch of each process.

    Only the total carries the gradient of every term. The terms of the pixel losses are values without a gradient.

    Args:
        features_BDhw: (B, D, h, w) float, the student's features of the micro-batch.
        adapter: the generator g of the pixel learning module.
        micro_batch: some views with their stored teacher tokens.
        global_batch: the batch that contains the micro-batch.
        text: text features, and the mean of CLIP's embeddings of regions.
        bank: CLS tokens of earlier iterations. It is not changed here.
        config: the method's settings.

    Returns:
        Name of a term -> scalar float32: `total`, and those of `global`, `local`, `generate`, `ce`, `focal` and `dice`
        that are enabled.
    """
    features_BDhw, text_SD = features_BDhw.float(), text.seen_SD
    size = (features_BDhw.shape[2], features_BDhw.shape[3])
    terms: Terms = {}

    if config.losses.cls_token:
        valid_Bhw = plm.reduce_labels(micro_batch.valid_BCC, size)
        token = glm.attend(micro_batch.cls_BD, features_BDhw, valid_Bhw, config.global_token, config.unit_query)
        contrast = glm.global_loss(
            global_batch.cls_WD, token.token_BD, global_batch.image_ids_W, bank, config.temperature, micro_batch.first
        )
        terms["global"] = contrast * global_batch.share

    first, images = global_batch.world.rank * len(features_BDhw), len(features_BDhw)
    pseudo_APD = features_BDhw.new_zeros(images * global_batch.world.size, 0, features_BDhw.shape[1])
    present_AP = pseudo_APD[:, :, 0].bool()
    if config.pseudo or config.losses.generate:
        centroids = _centroids(features_BDhw, micro_batch, global_batch, len(text_SD), config.detach_centroids)
        if config.losses.local:
            own_BP = centroids.pseudo_present_BP[first : first + images]
            local = _local(centroids.pseudo_BPD[first : first + images], own_BP, micro_batch, global_batch, config)
            terms["local"] = local / global_batch.denominators(size).regions.clamp(min=1)
        starts_APD = None
        if config.generator == "region":
            starts_APD = text.starts(global_batch.world.concat(micro_batch.region_tokens_BRD))
        generated = vla.generate_classifiers(adapter, centroids, global_batch.cls_WD, starts_APD)
        pseudo_APD, present_AP = generated.pseudo_BPD, generated.pseudo_present_BP
        if text.unseen_UD is not None:
            names_AP = global_batch.world.concat(micro_batch.names_BP)
            named_APD = text.unseen_UD[names_AP.clamp(min=0)]
            pseudo_APD = torch.where((names_AP != NOT_NAMED)[..., None], named_APD, pseudo_APD)
        if config.losses.generate:
            generate = vla.generate_loss(generated.seen_SD, generated.seen_present_S, text_SD)
            terms["generate"] = generate * global_batch.share

    if config.pseudo and config.pseudo_scope == "batch":
        labels_BCC, pseudo_BPD, present_BP = plm.offset_scope(
            micro_batch.labels_BCC, pseudo_APD, present_AP, len(text_SD), first
        )
    else:
        own = slice(first, first + images)
        labels_BCC, pseudo_BPD, present_BP = micro_batch.labels_BCC, pseudo_APD[own], present_AP[own]
    pixel_terms, pixel_total = _pixel_losses(
        features_BDhw, text_SD, pseudo_BPD, present_BP, labels_BCC, global_batch, config
    )
    parts = [*terms.values(), *pixel_total]
    return terms | pixel_terms | {"total": torch.stack(parts).sum() if parts else features_BDhw.sum() * 0}


def _centroids(
    features_BDhw: Tensor, micro_batch: MicroBatch, global_batch: GlobalBatch, num_seen: int, detach: bool
) -> vla.Centroids:
    """Centroids of the classes of all processes. Each process adapts all of them, for self-attention."""
    size = (features_BDhw.shape[2], features_BDhw.shape[3])
    labels_Bhw = plm.reduce_labels(micro_batch.labels_BCC, size)
    world = global_batch.world
    centroids = vla.class_centroids(features_BDhw, labels_Bhw, num_seen, global_batch.regions_W, detach, world.total)
    return centroids._replace(
        pseudo_BPD=world.concat(centroids.pseudo_BPD), pseudo_present_BP=world.concat(centroids.pseudo_present_BP)
    )


def _local(
    means_BPD: Tensor, present_BP: Tensor, micro_batch: MicroBatch, global_batch: GlobalBatch, config: MethodConfig
) -> Tensor:
    """The sum of the local loss over the regions of the micro-batch, against those of the global batch."""
    tokens_WRD = global_batch.region_tokens_WRD
    real_WR = tokens_WRD.any(2)
    row_WR = real_WR.flatten().cumsum(0).view_as(real_WR) - 1
    own_BP = row_WR[micro_batch.first : micro_batch.first + len(present_BP)]
    return local_loss(means_BPD[present_BP], own_BP[present_BP], tokens_WRD[real_WR], config.temperature)


def _pixel_losses(
    features_BDhw: Tensor,
    text_SD: Tensor,
    pseudo_BPD: Tensor,
    present_BP: Tensor,
    labels_BCC: Tensor,
    global_batch: GlobalBatch,
    config: MethodConfig,
) -> tuple[Terms, list[Tensor]]:
    """The terms as values for the log, and the tensors that carry their gradient."""
    switches = config.losses
    if not (switches.ce or switches.bce):
        return {}, []
    logits_BKhw = losses.class_logits(
        features_BDhw, text_SD, pseudo_BPD, mode=config.pseudo_logit, feature_norm=config.feature_norm
    )
    size = (logits_BKhw.shape[2], logits_BKhw.shape[3])
    pixels, pairs, _ = global_batch.denominators(size)
    weights = PixelWeights(
        ce=1.0 if switches.ce else 0.0,
        focal=switches.focal_weight if switches.bce else 0.0,
        dice=switches.dice_weight if switches.bce else 0.0,
    )
    pixel = pixel_losses(
        logits_BKhw,
        labels_BCC if switches.size == "image" else plm.reduce_labels(labels_BCC, size),
        losses.class_mask(len(text_SD), present_BP),
        weights,
        ignore=switches.nel_ignore,
        pixels=pixels,
        pairs=pairs,
    )
    terms = {"ce": pixel.ce} if switches.ce else {}
    return terms | ({"focal": pixel.focal, "dice": pixel.dice} if switches.bce else {}), [pixel.total]
