"""One training step's losses: how the modules of `cliptea.method` are put together (eq. 11 and 12).

Shape legend: B images, C crop, D width, h w feature size, S seen classes, P pseudo classes of an image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cliptea.config import MethodConfig
from cliptea.method import glm, losses, plm, vla
from cliptea.training.batches import Batch

__all__ = ["Terms", "method_losses"]

Terms = dict[str, Tensor]


def method_losses(
    student: nn.Module,
    adapter: vla.Adapter,
    batch: Batch,
    text_SD: Tensor,
    bank: glm.TokenBank,
    config: MethodConfig,
) -> Terms:
    """Every loss term that the config switches on, weighted, with `total`, their sum.

    Args:
        student: images (B, 3, C, C) -> features (B, D, h, w).
        adapter: the generator g of the pixel learning module.
        batch: views with their stored teacher tokens.
        text_SD: unit-norm text features of the seen classes.
        bank: CLS tokens of earlier iterations; read only here.
        config: the method's settings.
    """
    switches = config.losses
    features_BDhw = student(batch.images_B3CC).float()
    size = (features_BDhw.shape[2], features_BDhw.shape[3])
    terms: Terms = {}

    if switches.cls_token:
        valid_Bhw = plm.reduce_labels(batch.valid_BCC, size)
        token = glm.attend(batch.cls_BD, features_BDhw, valid_Bhw, config.global_token, config.unit_query)
        terms["global"] = glm.global_loss(batch.cls_BD, token.token_BD, batch.image_ids_B, bank, config.temperature)

    labels_BCC = batch.labels_BCC
    regions_B = torch.zeros(len(labels_BCC), dtype=torch.int64, device=labels_BCC.device)
    if config.pseudo:
        labels_BCC, regions_B = plm.pseudo_labels(labels_BCC, batch.valid_BCC, batch.regions_Bgg, len(text_SD))
    pseudo_BPD = features_BDhw.new_zeros(len(labels_BCC), 0, features_BDhw.shape[1])
    present_BP = torch.zeros(len(labels_BCC), 0, dtype=torch.bool, device=labels_BCC.device)
    if config.pseudo or switches.generate:
        centroids = vla.class_centroids(
            features_BDhw,
            plm.reduce_labels(labels_BCC, size),
            len(text_SD),
            regions_B,
            config.detach_centroids,
        )
        generated = vla.generate_pseudo_classes(adapter, centroids, batch.cls_BD)
        pseudo_BPD, present_BP = generated.pseudo_BPD, generated.pseudo_present_BP
        if switches.generate:
            terms["generate"] = vla.generate_loss(generated.seen_SD, generated.seen_present_S, text_SD)

    if config.pseudo and config.pseudo_scope == "batch":
        labels_BCC, pseudo_BPD, present_BP = plm.offset_scope(labels_BCC, pseudo_BPD, present_BP, len(text_SD))
    terms |= _pixel_losses(features_BDhw, text_SD, pseudo_BPD, present_BP, labels_BCC, config)
    return terms | {"total": torch.stack(list(terms.values())).sum() if terms else features_BDhw.sum() * 0}


def _pixel_losses(
    features_BDhw: Tensor,
    text_SD: Tensor,
    pseudo_BPD: Tensor,
    present_BP: Tensor,
    labels_BCC: Tensor,
    config: MethodConfig,
) -> Terms:
    switches = config.losses
    if not (switches.ce or switches.bce):
        return {}
    logits = losses.class_logits(features_BDhw, text_SD, pseudo_BPD)
    mask_BC = losses.class_mask(len(text_SD), present_BP)
    if switches.size == "image":
        logits = losses.upsample(logits, (labels_BCC.shape[1], labels_BCC.shape[2]))
    else:
        labels_BCC = plm.reduce_labels(labels_BCC, (logits.shape[2], logits.shape[3]))
    terms: Terms = {}
    if switches.ce:
        terms["ce"] = losses.cross_entropy(logits, labels_BCC, mask_BC)
    if switches.bce:
        focal = losses.focal(logits, labels_BCC, mask_BC, ignore=switches.nel_ignore)
        dice = losses.dice(logits, labels_BCC, mask_BC, ignore=switches.nel_ignore)
        terms["focal"] = switches.focal_weight * focal
        terms["dice"] = switches.dice_weight * dice
    return terms
