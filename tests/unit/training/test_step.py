"""The composed losses: switches, anchors, and agreement with the terms computed one by one."""

import numpy as np
import pytest
import torch
from random_batches import CROP, DIM, GRID, SEEN, make_batch
from torch import nn

from cliptea.config import MethodConfig
from cliptea.method.glm import TokenBank
from cliptea.method.vla import Adapter
from cliptea.training.batches import Batch
from cliptea.training.global_batch import GlobalBatch
from cliptea.training.loss_terms import method_losses


def parts(seed=0, generator="transformer_decoder"):
    torch.manual_seed(seed)
    student = nn.Conv2d(3, DIM, 2, 2)  # stride 2, no dropout, no batch statistics
    adapter = Adapter(generator, DIM, layers=1, heads=4, ffn=8, dropout=0.0)
    text = nn.functional.normalize(torch.randn(SEEN, DIM), dim=1)
    return student, adapter, text, TokenBank(2)


def losses(batch, **method):
    return losses_of(batch, MethodConfig.model_validate(method), *parts())


def losses_of(batch, config, student, adapter, text, bank):
    whole = GlobalBatch(batch, SEEN, config)
    (part,) = whole.micro_batches()
    return method_losses(student(part.images_B3CC), adapter, part, whole, text, bank, config)


def test_the_total_is_the_sum_of_its_terms():
    terms = losses(make_batch())
    assert set(terms) == {"global", "generate", "ce", "focal", "dice", "total"}
    np.testing.assert_allclose(
        terms["total"].item(), sum(v.item() for k, v in terms.items() if k != "total"), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("switch", "gone"),
    [("cls_token", {"global"}), ("ce", {"ce"}), ("bce", {"focal", "dice"}), ("generate", {"generate"})],
)
def test_a_switch_removes_its_terms_and_leaves_the_others_as_they_are(switch, gone):
    every, some = losses(make_batch()), losses(make_batch(), losses={switch: False})
    assert set(every) - set(some) == gone
    for name in set(some) - {"total"}:
        torch.testing.assert_close(some[name], every[name])


def test_seen_only_is_the_cross_entropy_of_the_library():
    """Float64 reference: torch's own cross entropy of upsampled features times text features."""
    batch = make_batch()
    switches = {"cls_token": False, "bce": False, "generate": False}
    terms = losses(batch, pseudo=False, losses=switches)
    student, _, text, _ = parts()
    features = student(batch.images_B3CC).double()
    logits = nn.functional.interpolate(
        torch.einsum("bdhw,nd->bnhw", features, text.double()),
        (CROP, CROP),
        mode="bilinear",
        align_corners=False,
    )
    wanted = nn.functional.cross_entropy(logits, batch.labels_BCC, ignore_index=255)
    np.testing.assert_allclose(terms["ce"].item(), wanted.item(), rtol=1e-5)
    torch.testing.assert_close(terms["total"], terms["ce"])


def test_without_unlabelled_pixels_pseudo_classes_change_nothing():
    batch = make_batch(unlabelled=0.0)
    with_pseudo, without = losses(batch), losses(batch, pseudo=False)
    for name in ("ce", "focal", "dice", "generate"):
        torch.testing.assert_close(with_pseudo[name], without[name])


def test_without_labelled_pixels_and_regions_the_pixel_losses_are_zero():
    batch = make_batch(unlabelled=1.0)._replace(regions_Bgg=torch.full((3, GRID, GRID), 255, dtype=torch.uint8))
    terms = losses(batch)
    for name in ("ce", "focal", "dice", "generate"):
        assert terms[name].item() == 0


def test_the_order_of_a_batch_does_not_matter():
    batch = make_batch(number=4)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = Batch(*(tensor[order] for tensor in batch))
    one, two = losses(batch), losses(shuffled)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6)


def test_rivals_across_images_raise_the_cross_entropy():
    """More classes compete for every pixel, so that no softmax term can fall."""
    batch = make_batch()
    image, across = losses(batch), losses(batch, pseudo_scope="batch")
    assert across["ce"] > image["ce"]
    torch.testing.assert_close(across["generate"], image["generate"])


@pytest.mark.parametrize("generator", ["transformer_decoder", "mlp", "original"])
@pytest.mark.parametrize("unlabelled", [0.0, 0.5, 1.0])
def test_every_parameter_gets_a_finite_gradient(generator, unlabelled):
    student, adapter, text, bank = parts(generator=generator)
    batch = make_batch(unlabelled=unlabelled)
    losses_of(batch, MethodConfig(generator=generator), student, adapter, text, bank)["total"].backward()
    for parameter in [*student.parameters(), *adapter.parameters()]:
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_feature_size_losses_use_reduced_labels():
    terms = losses(make_batch(), losses={"size": "feature"})
    assert all(value.isfinite() for value in terms.values())
    assert not torch.isclose(terms["ce"], losses(make_batch())["ce"])
