"""The losses of one training step, which combine the modules of `cliptea.method` (eq. 11 and 12).

Shape legend: B images of a micro-batch, W images of the global batch, A images of this micro-batch in all processes,
C crop, D width, h w feature size, S seen classes, P pseudo classes of an image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cliptea.config import MethodConfig
from cliptea.method import glm, losses, plm, vla
from cliptea.method.pixel_losses import PixelWeights, pixel_losses
from cliptea.training.global_batch import GlobalBatch, MicroBatch

__all__ = ["Terms", "method_losses"]

Terms = dict[str, Tensor]


def method_losses(
    features_BDhw: Tensor,
    adapter: vla.Adapter,
    micro_batch: MicroBatch,
    global_batch: GlobalBatch,
    text_SD: Tensor,
    bank: glm.TokenBank,
    config: MethodConfig,
) -> Terms:
    """The weighted share of a micro-batch in every enabled loss term, and their sum `total`.

    The shares of all micro-batches and processes add up to the terms of the global batch, for any number of processes.
    With several micro-batches, the contrast with all CLS tokens and all denominators still use the global batch.
    Centroids (eq. 7), the classes generated from them and eq. 8 use one micro-batch of each process.

    Only the total has the gradient of every term; those of the pixel losses are values.

    Args:
        features_BDhw: (B, D, h, w) float, the student's features of the micro-batch.
        adapter: the generator g of the pixel learning module.
        micro_batch: some views with their stored teacher tokens.
        global_batch: the batch that contains the micro-batch.
        text_SD: unit-norm text features of the seen classes.
        bank: CLS tokens of earlier iterations. It is not changed here.
        config: the method's settings.
    """
    features_BDhw = features_BDhw.float()
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
        generated = _generate(features_BDhw, adapter, micro_batch, global_batch, len(text_SD), config.detach_centroids)
        pseudo_APD, present_AP = generated.pseudo_BPD, generated.pseudo_present_BP
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


def _generate(
    features_BDhw: Tensor,
    adapter: vla.Adapter,
    micro_batch: MicroBatch,
    global_batch: GlobalBatch,
    num_seen: int,
    detach: bool,
) -> vla.Generated:
    """Classifier vectors for the classes of all processes. Each process computes all of them for self-attention."""
    size = (features_BDhw.shape[2], features_BDhw.shape[3])
    labels_Bhw = plm.reduce_labels(micro_batch.labels_BCC, size)
    world = global_batch.world
    centroids = vla.class_centroids(features_BDhw, labels_Bhw, num_seen, global_batch.regions_W, detach, world.total)
    everywhere = centroids._replace(
        pseudo_BPD=world.concat(centroids.pseudo_BPD), pseudo_present_BP=world.concat(centroids.pseudo_present_BP)
    )
    return vla.generate_pseudo_classes(adapter, everywhere, global_batch.cls_WD)


def _pixel_losses(
    features_BDhw: Tensor,
    text_SD: Tensor,
    pseudo_BPD: Tensor,
    present_BP: Tensor,
    labels_BCC: Tensor,
    global_batch: GlobalBatch,
    config: MethodConfig,
) -> tuple[Terms, list[Tensor]]:
    """The terms, for reading, and what their gradient comes from."""
    switches = config.losses
    if not (switches.ce or switches.bce):
        return {}, []
    logits_BKhw = losses.class_logits(features_BDhw, text_SD, pseudo_BPD)
    size = (logits_BKhw.shape[2], logits_BKhw.shape[3])
    pixels, pairs = global_batch.denominators(size)
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
