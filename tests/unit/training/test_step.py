"""The composed losses: switches, anchors, and agreement with the terms computed one by one."""

import numpy as np
import pytest
import torch
from random_batches import CROP, DIM, GRID, REGIONS, SEEN, make_batch
from torch import nn

from cliptea.config import MethodConfig
from cliptea.method.glm import TokenBank
from cliptea.method.vla import Adapter
from cliptea.training.batches import Batch
from cliptea.training.global_batch import GlobalBatch
from cliptea.training.loss_terms import TextFeatures, method_losses


def parts(seed=0, generator="transformer_decoder"):
    torch.manual_seed(seed)
    student = nn.Conv2d(3, DIM, 2, 2)  # stride 2, no dropout, no batch statistics
    adapter = Adapter(generator, DIM, layers=1, heads=4, ffn=8, dropout=0.0)
    text = TextFeatures(nn.functional.normalize(torch.randn(SEEN, DIM), dim=1), None, torch.randn(DIM) / 8)
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
        torch.einsum("bdhw,nd->bnhw", features, text.seen_SD.double()),
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


@pytest.mark.parametrize("generator", ["transformer_decoder", "mlp", "original", "region"])
@pytest.mark.parametrize("unlabelled", [0.0, 0.5, 1.0])
def test_every_parameter_gets_a_finite_gradient(generator, unlabelled):
    student, adapter, text, bank = parts(generator=generator)
    batch = make_batch(unlabelled=unlabelled)
    described = {"region_tokens": "crop"}
    config = MethodConfig.model_validate({"generator": generator, "clustering": described})
    losses_of(batch, config, student, adapter, text, bank)["total"].backward()
    for parameter in [*student.parameters(), *adapter.parameters()]:
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_feature_size_losses_use_reduced_labels():
    terms = losses(make_batch(), losses={"size": "feature"})
    assert all(value.isfinite() for value in terms.values())
    assert not torch.isclose(terms["ce"], losses(make_batch())["ce"])


def test_the_local_loss_contrasts_each_region_with_all_regions_of_the_batch():
    """Float64 reference in loops."""
    batch, (student, _, _, _) = make_batch(), parts()
    found = losses(batch, clustering={"region_tokens": "crop"}, losses={"local": True})["local"].item()
    features = student(batch.images_B3CC).double().detach()
    regions = batch.regions_Bgg.repeat_interleave(2, 1).repeat_interleave(2, 2)
    tokens = batch.region_tokens_BRD.double()
    costs = []
    for image in range(3):
        for region in range(REGIONS):
            mean = features[image][:, regions[image] == region].mean(1)
            cosines = [float(mean @ token / mean.norm() / token.norm()) for token in tokens.flatten(0, 1)]
            own = cosines[image * REGIONS + region]
            costs.append(np.log(sum(np.exp((cosine - own) / 0.07) for cosine in cosines)))
    assert found == pytest.approx(np.mean(costs), rel=1e-4)


def test_the_residual_of_a_region_starts_at_zero():
    """The classifier of a region is then CLIP's own vector for it, moved by the means."""
    _, _, text, _ = parts()
    adapter, batch = Adapter("region", DIM, layers=1, heads=4, ffn=8, dropout=0.0), make_batch()
    queries, starts = torch.randn(7, DIM), text.starts(batch.region_tokens_BRD)
    tokens = batch.region_tokens_BRD.double() - text.region_mean_D.double() + text.seen_SD.double().mean(0)
    wanted = tokens / tokens.norm(dim=2, keepdim=True)
    torch.testing.assert_close(starts.double(), wanted, rtol=1e-5, atol=1e-6)
    found = adapter(queries, torch.randn(3, DIM), starts[0])
    torch.testing.assert_close(found[-REGIONS:], starts[0])
    plain = Adapter("transformer_decoder", DIM, layers=1, heads=4, ffn=8, dropout=0.0)
    plain.load_state_dict({name: value for name, value in adapter.state_dict().items() if name != "residual.weight"})
    memory = torch.randn(3, DIM)
    torch.testing.assert_close(adapter(queries, memory, starts[0])[:-REGIONS], plain(queries, memory)[:-REGIONS])


def test_a_named_region_is_trained_with_the_text_of_its_name():
    batch, (student, adapter, text, bank) = make_batch(), parts(generator="original")
    text = text._replace(unseen_UD=nn.functional.normalize(torch.randn(2, DIM), dim=1))
    config = MethodConfig.model_validate(
        {"clustering": {"region_tokens": "crop"}, "transductive": {"names": True}, "generator": "original"}
    )
    names = torch.tensor([[0, -1, 1], [-1, -1, -1], [1, -1, -1]])
    whole = GlobalBatch(batch, SEEN, config, names_BR=names)
    (part,) = whole.micro_batches()
    features = student(part.images_B3CC)
    found = method_losses(features, adapter, part, whole, text, bank, config)["ce"].item()
    logits = torch.einsum("bdhw,nd->bnhw", features, text.seen_SD).double()
    costs, pixels = 0.0, 0
    for image in range(3):
        vectors = []
        for region in range(REGIONS):
            name = int(names[image, region])
            inside = part.labels_BCC[image, ::2, ::2] == SEEN + region
            mean = features[image][:, inside].mean(1)
            vectors.append(text.unseen_UD[name] if name >= 0 else mean / mean.norm())
        own = torch.cat([logits[image], torch.einsum("dhw,rd->rhw", features[image], torch.stack(vectors)).double()])
        large = nn.functional.interpolate(own[None], (CROP, CROP), mode="bilinear", align_corners=False)
        costs += nn.functional.cross_entropy(large, part.labels_BCC[image : image + 1], reduction="sum").item()
        pixels += CROP * CROP
    assert found == pytest.approx(costs / pixels, rel=1e-5)


@pytest.mark.parametrize(("pseudo_logit", "feature_norm"), [("cosine", "none"), ("dot", "scaled_cosine")])
def test_cosine_logits_are_a_setting(pseudo_logit, feature_norm):
    plain = losses(make_batch())["ce"]
    other = losses(make_batch(), pseudo_logit=pseudo_logit, feature_norm=feature_norm)["ce"]
    assert abs(plain.item() - other.item()) > 1e-3
