"""Class logits and the pixel losses, against loops and torch's autograd in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pixel_oracle import full_size_losses, loop_cross_entropy, loop_dice, loop_focal, pairs_of

from cliptea.method import pixel_losses as module
from cliptea.method.losses import class_logits, class_mask, labelled_pixels, present_pairs
from cliptea.method.pixel_losses import PixelWeights, pixel_losses

ONE_EACH = PixelWeights(1.0, 1.0, 1.0)
EACH = [PixelWeights(1.0, 0.0, 0.0), PixelWeights(0.0, 1.0, 0.0), PixelWeights(0.0, 0.0, 1.0)]
IGNORE_MODES = ["exclude", "negative"]
SIZES = [(5, 6), (20, 24), (13, 17), (3, 4), (150, 140)]  # of labels, for logits of 5 x 6


def _batch(seed, scale=3.0, images=3, classes=6, size=(5, 6), label_size=None):
    """Random logits; class 4 is absent from images 0 and 2, image 1 lacks class 0, a fifth is unlabelled."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, *size, generator=generator) * scale
    labels = torch.randint(0, classes, (images, *(label_size or size)), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    labels[1][labels[1] == 0] = 255
    mask = torch.ones(images, classes, dtype=torch.bool)
    mask[0::2, 4] = False
    labels[0::2][labels[0::2] == 4] = 255
    return logits, labels, mask


def _terms(logits, labels, mask, weights=ONE_EACH, **settings):
    return torch.stack(pixel_losses(logits, labels, mask, weights, **settings)[1:])


def _gradient(loss, logits):
    return torch.autograd.grad(loss, logits)[0]


@pytest.fixture(params=[1, 8])
def band_mib(request, monkeypatch):
    """Bands of a few rows, and the usual ones."""
    if request.param == 1:
        monkeypatch.setattr(module, "band_height", lambda *maps: 3)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [0.5, 3.0, 60.0])
@pytest.mark.parametrize("ignore", IGNORE_MODES)
def test_losses_equal_loops(seed, scale, ignore):
    batch = _batch(seed, scale)
    expected = [loop_cross_entropy(*batch), loop_focal(*batch, ignore), loop_dice(*batch, ignore)]
    np.testing.assert_allclose(_terms(*batch, ignore=ignore), expected, rtol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [1.0, 8.0, 60.0])
@pytest.mark.parametrize("ignore", IGNORE_MODES)
@pytest.mark.usefixtures("band_mib")
def test_values_and_gradients_equal_float64_autograd(size, scale, ignore):
    logits, labels, mask = _batch(5, scale, label_size=size)
    wide, narrow = logits.double().requires_grad_(), logits.requires_grad_()
    expected = full_size_losses(wide, labels, mask, ignore)
    torch.testing.assert_close(_terms(narrow, labels, mask, ignore=ignore).double(), expected, rtol=2e-6, atol=0)
    for weights, reference in zip(EACH, expected, strict=True):
        mine = _gradient(pixel_losses(narrow, labels, mask, weights, ignore=ignore).total, narrow)
        theirs = torch.autograd.grad(reference, wide, retain_graph=True)[0]
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=2e-6 * theirs.abs().max().item())


@pytest.mark.parametrize("ignore", IGNORE_MODES)
def test_the_total_is_the_weighted_sum(ignore):
    logits, labels, mask = _batch(6, label_size=(11, 23))
    wide, narrow = logits.double().requires_grad_(), logits.requires_grad_()
    weights = PixelWeights(1.5, 100.0, 0.3)
    loss = pixel_losses(narrow, labels, mask, weights, ignore=ignore)
    reference = full_size_losses(wide, labels, mask, ignore) @ torch.tensor(weights, dtype=torch.float64)
    assert loss.total.item() == pytest.approx(reference.item(), rel=2e-6)
    assert loss.total.item() == pytest.approx(sum(term.item() for term in loss[1:]), rel=1e-6)
    assert not any(term.requires_grad for term in loss[1:])
    torch.testing.assert_close(
        _gradient(3 * loss.total, narrow).double(), 3 * _gradient(reference, wide), rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("ignore", IGNORE_MODES)
@pytest.mark.parametrize("weights", [*EACH, PixelWeights(0.5, 2.0, 3.0)])
@pytest.mark.usefixtures("band_mib")
def test_gradcheck(weights, ignore):
    logits, labels, mask = _batch(8, images=2, classes=5, size=(3, 4), label_size=(10, 7))
    in_float64 = pixel_losses.__wrapped__
    assert torch.autograd.gradcheck(
        lambda x: in_float64(x, labels, mask, weights, ignore=ignore).total, logits.double().requires_grad_()
    )


def test_several_batches_with_common_denominators_add_up():
    """As processes and micro-batches do."""
    logits, labels, mask = _batch(9, label_size=(20, 24))
    whole, parts = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    common = {"pixels": labelled_pixels(labels, mask), "pairs": present_pairs(labels, mask).sum()}
    expected = pixel_losses(whole, labels, mask).total
    found = [
        pixel_losses(parts[own], labels[own], mask[own], **common).total for own in (slice(0, 1), slice(1, 3))
    ]  # fmt: skip
    assert sum(found).item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(_gradient(sum(found), parts), _gradient(expected, whole), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("value", [100.0, -100.0, 1e4, -1e4])
@pytest.mark.parametrize("weights", EACH)
def test_extreme_logits_stay_finite(weights, value):
    logits, labels, mask = _batch(0)
    logits = (logits.sign() * value).requires_grad_()
    wide = logits.detach().double().requires_grad_()
    loss = pixel_losses(logits, labels, mask, weights).total
    gradient = _gradient(loss, logits)
    expected = full_size_losses(wide, labels, mask) @ torch.tensor(weights, dtype=torch.float64)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(gradient.double(), _gradient(expected, wide), rtol=1e-5, atol=1e-12)
    if not weights.dice:  # whose slope is that of the sigmoid, zero in float32
        assert gradient.abs().sum() > 0


def test_confident_and_right_costs_nothing_confident_and_wrong_the_logit():
    labels = torch.tensor([[[0, 1]]])
    right = torch.tensor([[[[100.0, -100]], [[-100, 100]]]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    ce, focal, dice = _terms(right, labels, mask).tolist()
    assert (ce, focal) == (0.0, 0.0)
    assert dice == pytest.approx(0.0, abs=1e-6)
    # Each of 2 classes: mean of 0.25 * 100 at its positive and 0.75 * 100 at its negative; M = 2.
    assert _terms(-right, labels, mask)[:2].tolist() == pytest.approx([200.0, 50.0])


@pytest.mark.parametrize("hidden", [0.0, 1e4, float("nan"), float("inf")])
def test_absent_classes_have_no_influence(hidden):
    logits, labels, mask = _batch(1, label_size=(20, 24))
    expected = _terms(logits, labels, mask)
    changed = logits.clone()
    changed[0::2, 4] = hidden
    changed.requires_grad_()
    assert torch.equal(_terms(changed, labels, mask), expected)
    gradient = _gradient(pixel_losses(changed, labels, mask).total, changed)
    assert gradient.isfinite().all()
    assert gradient[0::2, 4].eq(0).all()


@pytest.mark.parametrize("ignore", IGNORE_MODES)
def test_pixels_of_an_absent_class_count_as_unlabelled(ignore):
    logits, labels, mask = _batch(2)
    stray = labels.clone()
    stray[0, :2], stray[2, 3] = 4, 4
    labels[0, :2], labels[2, 3] = 255, 255
    assert torch.equal(_terms(logits, stray, mask, ignore=ignore), _terms(logits, labels, mask, ignore=ignore))


@pytest.mark.parametrize("ignore", IGNORE_MODES)
def test_no_labelled_pixel_costs_exactly_nothing(ignore):
    logits, labels, mask = _batch(0)
    logits.requires_grad_()
    loss = pixel_losses(logits, torch.full_like(labels, 255), mask, ignore=ignore)
    assert [term.item() for term in loss] == [0.0] * 4
    assert _gradient(loss.total, logits).eq(0).all()


@pytest.mark.parametrize("ignore", IGNORE_MODES)
def test_no_labelled_pixel_here_but_in_another_process(ignore):
    """Only as negatives do the pixels of such an image cost anything."""
    logits, labels, mask = _batch(0, label_size=(20, 24))
    labels, common = torch.full_like(labels, 255), {"pixels": torch.tensor(50), "pairs": torch.tensor(3)}
    wide, narrow = logits.double().requires_grad_(), logits.requires_grad_()
    expected = full_size_losses(wide, labels, mask, ignore, **common)
    loss = pixel_losses(narrow, labels, mask, ONE_EACH, ignore=ignore, **common)
    assert loss.total.item() == pytest.approx(expected.sum().item(), rel=1e-6)
    assert (loss.total > 0) == (ignore == "negative")
    torch.testing.assert_close(
        _gradient(loss.total, narrow).double(), _gradient(expected.sum(), wide), rtol=1e-4, atol=1e-9
    )


def test_no_class_competes():
    logits, labels, mask = _batch(0)
    logits.requires_grad_()
    for ignore in IGNORE_MODES:
        loss = pixel_losses(logits, labels, torch.zeros_like(mask), ignore=ignore, pairs=torch.tensor(2))
        assert loss.total.item() == 0
        assert _gradient(loss.total, logits).eq(0).all()


def test_one_image_without_labels_adds_nothing_when_excluded():
    logits, labels, mask = _batch(0)
    labels[1] = 255
    without = _terms(logits[0::2], labels[0::2], mask[0::2])
    torch.testing.assert_close(_terms(logits, labels, mask), without, rtol=1e-6, atol=0)


def test_more_classes_than_label_numbers():
    """With `pseudo_scope: batch` classes have numbers beyond 255, which itself means no class."""
    logits, labels = torch.randn(2, 300, 4, 4) * 3, torch.randint(200, 300, (2, 16, 16))
    mask = torch.ones(2, 300, dtype=torch.bool)
    mask[:, 255] = False
    expected = full_size_losses(logits, labels, mask)
    torch.testing.assert_close(_terms(logits, labels, mask).double(), expected, rtol=2e-6, atol=0)


def test_batch_order_only_permutes():
    logits, labels, mask = _batch(3)
    order = torch.tensor([2, 0, 1])
    straight, shuffled = logits.clone().requires_grad_(), logits[order].requires_grad_()
    loss = pixel_losses(straight, labels, mask).total
    same = pixel_losses(shuffled, labels[order], mask[order]).total
    assert loss.item() == pytest.approx(same.item(), rel=1e-6)
    torch.testing.assert_close(_gradient(loss, straight)[order], _gradient(same, shuffled))


def test_losses_are_float32_under_autocast():
    logits, labels, mask = _batch(3, scale=40.0)
    half = logits.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = pixel_losses(half, labels.byte(), mask)
    assert {term.dtype for term in loss} == {torch.float32}
    assert loss.total.item() == pixel_losses(half.float(), labels, mask).total.item()
    assert _gradient(loss.total, half).dtype == torch.bfloat16


@pytest.mark.parametrize("term", [1, 2])
def test_number_of_pairs_can_be_an_average_over_processes(term):
    batch = _batch(4)
    doubled = torch.tensor(len(pairs_of(batch[1])) * 2.0)
    assert _terms(*batch, pairs=doubled)[term].item() == pytest.approx(_terms(*batch)[term].item() / 2)


@pytest.mark.parametrize("seed", range(3))
def test_present_pairs_equal_naive(seed):
    _, labels, mask = _batch(seed)
    labels[0, 0, 0] = 4  # absent there
    expected = [(b, c) for b, c in pairs_of(labels) if mask[b, c]]
    assert [tuple(pair) for pair in present_pairs(labels, mask).nonzero().tolist()] == expected


def test_only_a_gradient_of_the_logits_size_is_kept():
    logits, labels = torch.randn(2, 60, 32, 32, requires_grad=True), torch.randint(0, 3, (2, 128, 128))
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = pixel_losses(logits, labels, torch.ones(2, 60, dtype=torch.bool)).total
    assert loss.requires_grad
    assert sum(kept.values()) == logits.nbytes


def test_the_gradient_can_be_asked_for_twice_and_not_at_all():
    logits, labels, mask = _batch(0)
    logits.requires_grad_()
    loss = pixel_losses(logits, labels, mask).total
    first = torch.autograd.grad(loss, logits, retain_graph=True)[0]
    assert torch.equal(first, _gradient(loss, logits))
    with torch.no_grad():
        assert pixel_losses(logits, labels, mask).total.item() == loss.item()


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
