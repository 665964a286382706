"""Class centroids, the adapter and L_generate."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cliptea.method.vla import Adapter, Centroids, class_centroids, generate_classifiers, generate_loss

NUM_SEEN = 4


def _scene(seed, images=3, channels=6, regions=(2, 0, 3)):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(images, channels, 5, 7, generator=generator) + 1
    labels = torch.full((images, 5, 7), 255)
    for b in range(images):
        choices = torch.tensor([0, 1, 3, 255, *range(NUM_SEEN, NUM_SEEN + regions[b])])  # class 2 is absent
        labels[b] = choices[torch.randint(0, len(choices), (5, 7), generator=generator)]
    labels[labels == NUM_SEEN + 1] = 255  # a region without pixels at this size
    return features, labels, torch.tensor(regions)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_centroids_equal_naive(seed, dtype):
    features, labels, regions = _scene(seed)
    centroids = class_centroids(features, labels.to(dtype), NUM_SEEN, regions)
    values, ids = features.double().permute(0, 2, 3, 1).numpy(), labels.numpy()
    for seen in range(NUM_SEEN):
        members = values[ids == seen]
        assert centroids.seen_present_S[seen] == (len(members) > 0)
        expected = members.mean(0) if len(members) else np.zeros(6)
        np.testing.assert_allclose(centroids.seen_SD[seen].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert centroids.pseudo_BPD.shape == (3, 3, 6)
    for b, k in np.ndindex(3, 3):
        members = values[b][ids[b] == NUM_SEEN + k]
        assert centroids.pseudo_present_BP[b, k] == (len(members) > 0)
        expected = members.mean(0) if len(members) else np.zeros(6)
        np.testing.assert_allclose(centroids.pseudo_BPD[b, k].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert not centroids.seen_present_S[2]
    assert not centroids.pseudo_present_BP[:, 1].any()


def test_centroid_gradient_is_spread_over_the_class():
    features, labels, regions = _scene(0)
    features.requires_grad_()
    centroids = class_centroids(features, labels, NUM_SEEN, regions)
    seen_pull, pseudo_pull = torch.randn(NUM_SEEN, 6), torch.randn(3, 3, 6)
    ((centroids.seen_SD * seen_pull).sum() + (centroids.pseudo_BPD * pseudo_pull).sum()).backward()
    expected = torch.zeros_like(features)
    for b, i, j in np.ndindex(3, 5, 7):
        label = int(labels[b, i, j])
        if label < NUM_SEEN:
            expected[b, :, i, j] = seen_pull[label] / (labels == label).sum()
        elif label != 255:
            expected[b, :, i, j] = pseudo_pull[b, label - NUM_SEEN] / (labels[b] == label).sum()
    torch.testing.assert_close(features.grad, expected)


def test_detached_centroids_and_no_regions():
    features, labels, _ = _scene(0, regions=(0, 0, 0))
    centroids = class_centroids(features.requires_grad_(), labels, NUM_SEEN, torch.zeros(3).long(), detach=True)
    assert not centroids.seen_SD.requires_grad
    assert centroids.pseudo_BPD.shape == (3, 0, 6)
    assert centroids.pseudo_present_BP.shape == (3, 0)


def test_half_precision_features_are_summed_in_float32():
    features = torch.full((1, 2, 100, 100), 60.0, dtype=torch.float16)  # the sum, 6e5, is infinite in float16
    with torch.autocast("cpu", torch.bfloat16):
        centroids = class_centroids(features, torch.zeros(1, 100, 100).long(), 1, torch.zeros(1).long())
    assert centroids.seen_SD.dtype == torch.float32
    torch.testing.assert_close(centroids.seen_SD, torch.full((1, 2), 60.0))


def _adapter(kind, **settings):
    torch.manual_seed(0)
    return Adapter(kind, **{"dim": 16, "layers": 2, "heads": 4, "ffn": 32, **settings}).eval()


@pytest.mark.parametrize("kind", ["transformer_decoder", "mlp", "original"])
def test_adapted_classes_have_unit_norm_in_float32(kind):
    with torch.autocast("cpu", torch.bfloat16):
        adapted = _adapter(kind)(torch.randn(5, 16) * 9, torch.randn(3, 16) * 9)
    assert adapted.dtype == torch.float32
    torch.testing.assert_close(adapted.norm(dim=1), torch.ones(5))


def test_decoder_equals_torch_decoder_with_the_same_weights():
    adapter = _adapter("transformer_decoder")
    reference = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, 32, batch_first=True), 2).double().eval()
    reference.layers.load_state_dict(adapter.decoder.state_dict())
    queries, memory = torch.randn(5, 16), torch.randn(3, 16)
    expected = F.normalize(reference(queries[None].double(), memory[None].double())[0], dim=1)
    torch.testing.assert_close(adapter(queries, memory).double(), expected, rtol=1e-4, atol=1e-5)


def test_decoder_layers_start_from_different_weights():
    first, second = _adapter("transformer_decoder").decoder
    assert not torch.equal(first.linear1.weight, second.linear1.weight)


def test_decoder_has_the_published_size():
    # Per layer: two attentions of 4 (D^2 + D), a feed-forward net of 2 D F + F + D, three norms of 2 D.
    per_layer = 2 * 4 * (512**2 + 512) + 2 * 512 * 2048 + 2048 + 512 + 6 * 512
    assert sum(p.numel() for p in Adapter("transformer_decoder").parameters()) == 3 * per_layer


def test_decoder_knows_no_positions():
    adapter, order = _adapter("transformer_decoder"), torch.tensor([3, 0, 4, 1, 2])
    queries, memory = torch.randn(5, 16), torch.randn(4, 16)
    plain = adapter(queries, memory)
    torch.testing.assert_close(adapter(queries[order], memory[[2, 0, 3, 1]]), plain[order], rtol=1e-4, atol=1e-5)
    assert (adapter(queries, memory + torch.randn(16)) - plain).abs().max() > 1e-3, "the memory is not read"


def test_mlp_equals_numpy():
    adapter = _adapter("mlp")
    queries = torch.randn(5, 16)
    first, second = (layer for layer in adapter.project if isinstance(layer, nn.Linear))
    w1, b1, w2, b2 = (p.detach().double().numpy() for p in (first.weight, first.bias, second.weight, second.bias))
    expected = np.maximum(queries.numpy() @ w1.T + b1, 0) @ w2.T + b2
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(adapter(queries, torch.randn(2, 16)).detach().numpy(), expected, atol=1e-5)


def test_original_only_normalises():
    queries = torch.randn(5, 16)
    expected = queries.numpy() / np.linalg.norm(queries.numpy(), axis=1, keepdims=True)
    np.testing.assert_allclose(_adapter("original")(queries, torch.randn(2, 16)).numpy(), expected, rtol=1e-6)


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="5 heads for 64 channels"):
        Adapter("transformer_decoder", dim=64, heads=5)
    with pytest.raises(ValueError, match="'lstm'"):
        Adapter("lstm")
    Adapter("mlp", dim=30, heads=8)  # heads mean nothing here


def _centroids(seen_present, pseudo_present, dim=16):
    seen_present, pseudo_present = torch.tensor(seen_present), torch.tensor(pseudo_present, dtype=torch.bool)
    seen = torch.randn(len(seen_present), dim) * seen_present[:, None]
    pseudo = torch.randn(*pseudo_present.shape, dim) * pseudo_present[:, :, None]
    return Centroids(seen.requires_grad_(), seen_present, pseudo.requires_grad_(), pseudo_present)


@pytest.mark.parametrize("kind", ["transformer_decoder", "mlp", "original"])
def test_generated_classes_return_to_their_places(kind):
    adapter, cls = _adapter(kind), torch.randn(2, 16)
    centroids = _centroids([True, False, True], [[False, True], [True, True]])
    places = [centroids.seen_SD[0], centroids.seen_SD[2], *centroids.pseudo_BPD[[0, 1, 1], [1, 0, 1]]]
    expected = adapter(torch.stack(places), cls)
    generated = generate_classifiers(adapter, centroids, cls)
    torch.testing.assert_close(generated.seen_SD[[0, 2]], expected[:2])
    torch.testing.assert_close(generated.pseudo_BPD[[0, 1, 1], [1, 0, 1]], expected[2:])
    assert generated.seen_SD[1].eq(0).all()
    assert generated.pseudo_BPD[0, 0].eq(0).all()
    assert generated.seen_present_S.tolist() == [True, False, True]
    assert generated.pseudo_present_BP.tolist() == [[False, True], [True, True]]


def test_gradients_reach_centroids_and_adapter():
    adapter, centroids = _adapter("transformer_decoder"), _centroids([True, False], [[True, False]])
    generated = generate_classifiers(adapter, centroids, torch.randn(2, 16))
    (generated.seen_SD @ torch.randn(16)).sum().backward()
    assert centroids.seen_SD.grad[0].abs().sum() > 0
    assert centroids.pseudo_BPD.grad[0, 0].abs().sum() > 0, "queries attend to each other"
    assert centroids.seen_SD.grad[1].eq(0).all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in adapter.parameters())


@pytest.mark.parametrize("kind", ["transformer_decoder", "mlp", "original"])
@pytest.mark.parametrize("regions", [0, 2])
def test_without_present_classes_the_adapter_receives_zero_gradients(kind, regions):
    adapter, centroids = _adapter(kind), _centroids([False, False], [[False] * regions])
    generated = generate_classifiers(adapter, centroids, torch.randn(1, 16))
    loss = generate_loss(generated.seen_SD, generated.seen_present_S, F.normalize(torch.randn(2, 16), dim=1))
    (loss + generated.pseudo_BPD.sum()).backward()
    assert loss.item() == 0.0
    assert generated.pseudo_BPD.shape == (1, regions, 16)
    for parameter in adapter.parameters():
        assert parameter.grad is not None
        assert parameter.grad.eq(0).all()


@pytest.mark.parametrize("seed", range(3))
def test_generate_loss_and_gradient_equal_naive(seed):
    generator = torch.Generator().manual_seed(seed)
    generated = F.normalize(torch.randn(6, 16, generator=generator), dim=1).requires_grad_()
    text = F.normalize(torch.randn(6, 16, generator=generator), dim=1)
    present = torch.tensor([True, False, True, True, False, True])
    loss = generate_loss(generated, present, text)
    loss.backward()
    p, t = generated.detach().double().numpy(), text.double().numpy()
    assert loss.item() == pytest.approx(np.mean([((p[k] - t[k]) ** 2).sum() for k in (0, 2, 3, 5)]), rel=1e-5)
    np.testing.assert_allclose(generated.grad.numpy(), 2 * (p - t) * present.numpy()[:, None] / 4, rtol=1e-4, atol=1e-6)


def test_generate_loss_of_opposite_vectors_is_four():
    text = F.normalize(torch.randn(3, 16), dim=1)
    assert generate_loss(-text, torch.ones(3, dtype=torch.bool), text).item() == pytest.approx(4.0, rel=1e-5)
