"""Class logits, cross entropy, focal and dice against naive float64 references."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import expit, log_expit, logsumexp

from cliptea.method.losses import (
    class_logits,
    class_mask,
    cross_entropy,
    dice,
    focal,
    present_pairs,
    upsample,
)

LOSSES = [cross_entropy, focal, dice]
EVERY_FORM = [
    *((loss, {}) for loss in LOSSES),
    (focal, {"ignore": "negative"}),
    (dice, {"ignore": "negative"}),
]


def _batch(seed, scale=3.0, images=3, classes=6, size=(5, 6)):
    """Random logits; class 4 is absent from images 0 and 2, image 1 lacks class 0, a fifth is unlabelled."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, *size, generator=generator) * scale
    labels = torch.randint(0, classes, (images, *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    labels[1][labels[1] == 0] = 255
    mask = torch.ones(images, classes, dtype=torch.bool)
    mask[0::2, 4] = False
    labels[0::2][labels[0::2] == 4] = 255
    return logits, labels, mask


def _naive_cross_entropy(logits, labels, mask):
    logits, costs = logits.double().numpy(), []
    for b, i, j in np.ndindex(*labels.shape):
        if labels[b, i, j] != 255:
            column = logits[b, mask[b].numpy(), i, j]
            costs.append(logsumexp(column) - logits[b, labels[b, i, j], i, j])
    return np.mean(costs)


def _pairs(labels):
    return [(b, int(c)) for b in range(len(labels)) for c in np.unique(labels[b].numpy()) if c != 255]


def _naive_focal(logits, labels, mask, *, alpha=0.25, gamma=2.0, ignore="exclude"):
    logits, total = logits.double().numpy(), 0.0
    for b, c in np.ndindex(*mask.shape):
        if not mask[b, c]:
            continue
        costs = []
        for i, j in np.ndindex(*labels.shape[1:]):
            if ignore == "exclude" and labels[b, i, j] == 255:
                continue
            x = logits[b, c, i, j]
            if labels[b, i, j] == c:
                costs.append(-alpha * expit(-x) ** gamma * log_expit(x))
            else:
                costs.append(-(1 - alpha) * expit(x) ** gamma * log_expit(-x))
        total += np.mean(costs)
    return total / max(1, len(_pairs(labels)))


def _naive_dice(logits, labels, mask, ignore="exclude"):
    total = 0.0
    for b, c in _pairs(labels):
        counted = labels[b].numpy() != 255 if ignore == "exclude" else np.ones(labels.shape[1:], dtype=bool)
        score, target = expit(logits[b, c].double().numpy())[counted], (labels[b].numpy() == c)[counted]
        total += 1 - (2 * (score * target).sum() + 1) / (score.sum() + target.sum() + 1)
    return total / max(1, len(_pairs(labels)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [0.5, 3.0, 60.0])
def test_losses_equal_naive(seed, scale):
    batch = _batch(seed, scale)
    assert cross_entropy(*batch).item() == pytest.approx(_naive_cross_entropy(*batch), rel=1e-5)
    for ignore in ("exclude", "negative"):
        assert focal(*batch, ignore=ignore).item() == pytest.approx(_naive_focal(*batch, ignore=ignore), rel=1e-5)
        assert dice(*batch, ignore=ignore).item() == pytest.approx(_naive_dice(*batch, ignore=ignore), rel=1e-5)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (0.9, 1.0), (0.25, 3.5)])
def test_focal_settings_and_gradient(alpha, gamma):
    logits, labels, mask = _batch(7)
    logits.requires_grad_()
    setting = {"alpha": alpha, "gamma": gamma}
    loss = focal(logits, labels, mask, **setting)
    loss.backward()
    expected = _naive_focal(logits.detach(), labels, mask, **setting)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    # Central differences of the NumPy reference, in float64, at a few places.
    for place in [(0, 0, 1, 1), (1, 4, 0, 0), (2, 5, 4, 5), (0, 4, 2, 2), (1, 0, 3, 3)]:
        up, down = logits.detach().double(), logits.detach().double()
        up[place] += 1e-4
        down[place] -= 1e-4
        rise = _naive_focal(up, labels, mask, **setting) - _naive_focal(down, labels, mask, **setting)
        assert logits.grad[place].item() == pytest.approx(rise / 2e-4, rel=1e-3, abs=1e-8)


def _wide_losses(logits, labels, mask, ignore):
    """The three losses on one-hot targets with torch's own float64 operators, as ZegCLIP writes them."""
    known, pairs = labels != 255, max(1, len(_pairs(labels)))
    masked = logits.masked_fill(~mask[:, :, None, None], float("-inf"))
    ce = F.cross_entropy(masked, labels, ignore_index=255)
    target = F.one_hot(labels.masked_fill(~known, logits.shape[1]), logits.shape[1] + 1)[..., :-1]
    target = target.permute(0, 3, 1, 2).double()
    counted = (known if ignore == "exclude" else torch.ones_like(known)).double()[:, None]
    p = logits.sigmoid()
    p_t = p * target + (1 - p) * (1 - target)
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    cost = (0.25 * target + 0.75 * (1 - target)) * (1 - p_t) ** 2 * bce * counted
    mean = cost.sum((2, 3)) / counted.sum((2, 3)).clamp(min=1)
    overlap, total = (p * target).sum((2, 3)), (p * counted).sum((2, 3)) + target.sum((2, 3))
    ratio = (1 - (2 * overlap + 1) / (total + 1)) * (target.sum((2, 3)) > 0)
    return ce, (mean * mask).sum() / pairs, ratio.sum() / pairs


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scale", [1.0, 8.0])
@pytest.mark.parametrize("ignore", ["exclude", "negative"])
def test_gradients_equal_float64_autograd(seed, scale, ignore):
    logits, labels, mask = _batch(seed, scale)
    wide = logits.double().requires_grad_()
    narrow = logits.requires_grad_()
    settings = [{}, {"ignore": ignore}, {"ignore": ignore}]
    for function, setting, reference in zip(LOSSES, settings, _wide_losses(wide, labels, mask, ignore), strict=True):
        loss = function(narrow, labels, mask, **setting)
        assert loss.item() == pytest.approx(reference.item(), rel=1e-5)
        (mine,) = torch.autograd.grad(loss, narrow)
        (expected,) = torch.autograd.grad(reference, wide, retain_graph=True)
        torch.testing.assert_close(mine.double(), expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("value", [100.0, -100.0, 1e4, -1e4])
@pytest.mark.parametrize("function", LOSSES)
def test_extreme_logits_stay_finite(function, value):
    logits, labels, mask = _batch(0)
    logits = (logits.sign() * value).requires_grad_()
    loss = function(logits, labels, mask)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    if function is not dice:  # whose slope is that of the sigmoid, zero in float32
        assert logits.grad.abs().sum() > 0


def test_confident_and_right_costs_nothing_confident_and_wrong_the_logit():
    labels = torch.tensor([[[0, 1]]])
    right = torch.tensor([[[[100.0, -100]], [[-100, 100]]]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert [function(right, labels, mask).item() for function in (cross_entropy, focal)] == [0.0, 0.0]
    assert dice(right, labels, mask).item() == pytest.approx(0.0, abs=1e-6)
    # Each of 2 classes: mean of 0.25 * 100 at its positive and 0.75 * 100 at its negative; M = 2.
    assert focal(-right, labels, mask).item() == pytest.approx(50.0)
    assert cross_entropy(-right, labels, mask).item() == pytest.approx(200.0)


@pytest.mark.parametrize("function", LOSSES)
@pytest.mark.parametrize("hidden", [0.0, 1e4, float("nan"), float("inf")])
def test_absent_classes_have_no_influence(function, hidden):
    logits, labels, mask = _batch(1)
    expected = function(logits, labels, mask)
    changed = logits.clone()
    changed[0::2, 4] = hidden
    changed.requires_grad_()
    loss = function(changed, labels, mask)
    loss.backward()
    assert loss.item() == expected.item()
    assert changed.grad.isfinite().all()
    assert changed.grad[0::2, 4].eq(0).all()


@pytest.mark.parametrize(("function", "settings"), EVERY_FORM)
def test_pixels_of_an_absent_class_count_as_unlabelled(function, settings):
    logits, labels, mask = _batch(2)
    stray = labels.clone()
    stray[0, :2], stray[2, 3] = 4, 4
    labels[0, :2], labels[2, 3] = 255, 255
    assert function(logits, stray, mask, **settings).item() == function(logits, labels, mask, **settings).item()


@pytest.mark.parametrize(("function", "settings"), EVERY_FORM)
def test_no_labelled_pixel_costs_exactly_nothing(function, settings):
    logits, labels, mask = _batch(0)
    logits.requires_grad_()
    loss = function(logits, torch.full_like(labels, 255), mask, **settings)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad.eq(0).all()


def test_one_image_without_labels_adds_nothing_when_excluded():
    logits, labels, mask = _batch(0)
    labels[1] = 255
    for function in LOSSES:
        without = function(logits[0::2], labels[0::2], mask[0::2])
        assert function(logits, labels, mask).item() == pytest.approx(without.item(), rel=1e-6)


@pytest.mark.parametrize("function", LOSSES)
def test_batch_order_only_permutes(function):
    logits, labels, mask = _batch(3)
    order = torch.tensor([2, 0, 1])
    straight, shuffled = logits.clone().requires_grad_(), logits[order].requires_grad_()
    loss, same = function(straight, labels, mask), function(shuffled, labels[order], mask[order])
    (loss + same).backward()
    assert loss.item() == pytest.approx(same.item(), rel=1e-6)
    torch.testing.assert_close(straight.grad[order], shuffled.grad)


@pytest.mark.parametrize("function", LOSSES)
def test_losses_are_float32_under_autocast(function):
    logits, labels, mask = _batch(3, scale=40.0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = function(logits.bfloat16(), labels.byte(), mask)
    assert loss.dtype == torch.float32
    assert loss.item() == function(logits.bfloat16().float(), labels, mask).item()


@pytest.mark.parametrize("function", [focal, dice])
def test_number_of_pairs_can_be_an_average_over_processes(function):
    batch = _batch(4)
    number = len(_pairs(batch[1]))
    assert function(*batch, pairs=torch.tensor(number * 2.0)).item() == pytest.approx(function(*batch).item() / 2)


@pytest.mark.parametrize("seed", range(3))
def test_present_pairs_equal_naive(seed):
    _, labels, mask = _batch(seed)
    labels[0, 0, 0] = 4  # absent there
    expected = [(b, c) for b, c in _pairs(labels) if mask[b, c]]
    assert [tuple(pair) for pair in present_pairs(labels, mask).nonzero().tolist()] == expected


@pytest.mark.parametrize(("function", "copies"), [(focal, 1.6), (cross_entropy, 1.1)])
def test_little_is_kept_for_the_backward_pass(function, copies):
    logits, labels = torch.randn(2, 60, 64, 64, requires_grad=True), torch.randint(0, 3, (2, 64, 64))
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = function(logits, labels, torch.ones(2, 60, dtype=torch.bool))
    assert loss.requires_grad
    assert 0 < sum(kept.values()) < copies * logits.nbytes


def _vectors(seed, images=2, seen=3, pseudo=2, channels=8):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(images, channels, 4, 5, generator=generator) * 6
    text = F.normalize(torch.randn(seen, channels, generator=generator), dim=1)
    return features, text, F.normalize(torch.randn(images, pseudo, channels, generator=generator), dim=2)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("settings", "cosine"),
    [
        ({}, (False, False)),
        ({"mode": "cosine", "cosine_scale": 5.0}, (False, True)),
        ({"feature_norm": "scaled_cosine", "cosine_scale": 5.0}, (True, True)),
    ],
)
def test_class_logits_equal_naive(seed, settings, cosine):
    features, text, pseudo = _vectors(seed)
    logits = class_logits(features, text, pseudo, **settings)
    assert logits.shape == (2, 5, 4, 5)
    for b, c, i, j in np.ndindex(2, 5, 4, 5):
        pixel = features[b, :, i, j].double().numpy()
        vector = (text[c] if c < 3 else pseudo[b, c - 3]).double().numpy()
        expected = pixel @ vector
        if cosine[c >= 3]:
            expected *= 5.0 / np.linalg.norm(pixel)
        assert logits[b, c, i, j].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_class_logits_without_pseudo_classes():
    features, text, pseudo = _vectors(0)
    assert torch.equal(class_logits(features, text), class_logits(features, text, pseudo[:, :0]))
    torch.testing.assert_close(class_logits(features, text), class_logits(features, text, pseudo)[:, :3])


@pytest.mark.parametrize("settings", [{"mode": "cosine"}, {"feature_norm": "scaled_cosine"}])
def test_zero_features_have_finite_cosine_gradients(settings):
    features, text, pseudo = _vectors(0)
    features[:, :, 0] = 0
    features.requires_grad_()
    class_logits(features, text, pseudo, **settings).square().sum().backward()
    assert features.grad.isfinite().all()


def test_gradients_reach_features_and_generated_classes():
    features, text, pseudo = _vectors(0)
    features.requires_grad_(), pseudo.requires_grad_()
    pull = torch.randn(2, 5, 4, 5)
    (class_logits(features, text, pseudo) * pull).sum().backward()
    expected = torch.einsum("bphw,bdhw->bpd", pull[:, 3:], features.detach())
    torch.testing.assert_close(pseudo.grad, expected, rtol=1e-4, atol=1e-4)
    weights = torch.cat([text.expand(2, -1, -1), pseudo.detach()], dim=1)
    torch.testing.assert_close(features.grad, torch.einsum("bchw,bcd->bdhw", pull, weights), rtol=1e-4, atol=1e-4)


def test_logits_are_float32_under_autocast():
    features, text, pseudo = _vectors(0)
    with torch.autocast("cpu", torch.bfloat16):
        logits = class_logits(features, text, pseudo)
    assert torch.equal(logits, class_logits(features, text, pseudo))


def test_class_mask_puts_seen_classes_first():
    present = torch.tensor([[True, False], [False, True]])
    assert class_mask(3, present).tolist() == [
        [True, True, True, True, False],
        [True, True, True, False, True],
    ]
    assert class_mask(2, present[:, :0]).tolist() == [[True, True], [True, True]]


@pytest.mark.parametrize("size", [(8, 12), (4, 6), (7, 5)])
def test_upsample_equals_naive_bilinear(size):
    logits = torch.randn(2, 3, 4, 6)
    source = logits.double().numpy()
    result = upsample(logits, size)

    def sides(place, length, target):
        centre = min(max((place + 0.5) * length / target - 0.5, 0), length - 1)
        low = int(centre)
        return low, min(low + 1, length - 1), centre - low

    for i, j in np.ndindex(*size):
        top, bottom, down = sides(i, 4, size[0])
        left, right, across = sides(j, 6, size[1])
        upper = source[:, :, top, left] * (1 - across) + source[:, :, top, right] * across
        lower = source[:, :, bottom, left] * (1 - across) + source[:, :, bottom, right] * across
        np.testing.assert_allclose(result[:, :, i, j].numpy(), upper * (1 - down) + lower * down, atol=1e-5)
