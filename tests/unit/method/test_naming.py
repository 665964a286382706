"""Names of regions against float64 loops, and what the rule must leave alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cliptea.method.naming import MarginMemory, Named, merged_regions, name_regions, region_scores

SEEN, UNSEEN, DIM, IMAGES, REGIONS = 4, 3, 12, 3, 5


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def softmax(values):
    shares = np.exp(np.asarray(values) - np.asarray(values).max())
    return shares / shares.sum()


def test_scores_are_means_of_softmax_over_the_positions_of_a_region():
    features, text = torch.randn(IMAGES, DIM, 6, 6), unit(SEEN + UNSEEN, DIM)
    regions = torch.randint(0, REGIONS + 1, (IMAGES, 6, 6))
    regions[regions == REGIONS] = 255
    regions[0][regions[0] == 2] = 255
    found = region_scores(features, regions.to(torch.uint8), text, REGIONS)
    for image in range(IMAGES):
        for region in range(REGIONS):
            places = (regions[image] == region).nonzero().tolist()
            shares = [softmax((features[image, :, r, c] @ text.T).double()) for r, c in places]
            wanted = np.mean(shares, axis=0) if shares else np.zeros(SEEN + UNSEEN)
            np.testing.assert_allclose(found[image, region], wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_names_equal_naive(seed):
    torch.manual_seed(seed)
    text, starts = unit(SEEN + UNSEEN, DIM), unit(IMAGES, REGIONS, DIM)
    present = torch.rand(IMAGES, REGIONS) < 0.8
    student, mirrored = (3 * torch.randn(IMAGES, REGIONS, SEEN + UNSEEN)).softmax(2), None
    mirrored = (student.log() + torch.randn_like(student)).softmax(2)
    found = name_regions(starts, present, student, mirrored, text, SEEN, temperature=0.3)
    agreed = 0
    for image in range(IMAGES):
        for region in range(REGIONS):
            clip = softmax((starts[image, region].double() @ text.double().T) / 0.3)
            one, two = ((clip + shares[image, region].double().numpy()) / 2 for shares in (student, mirrored))
            best, ranked = one.argmax(), np.sort((one + two) / 2)
            named = present[image, region] and best == two.argmax() and best >= SEEN
            agreed += bool(named)
            assert found.unseen_BR[image, region] == (best - SEEN if named else -1)
            margin = ranked[-1] - ranked[-2] if named else 0.0
            assert found.margin_BR[image, region].item() == pytest.approx(margin, abs=1e-6)
    assert 0 < agreed < IMAGES * REGIONS


def test_a_region_whose_best_name_is_seen_or_whose_mirror_image_disagrees_is_not_named():
    text = torch.eye(SEEN + UNSEEN)
    starts = text[[SEEN, 0, SEEN + 1]][None]  # CLIP: unseen 0, seen 0, unseen 1
    sure = torch.eye(SEEN + UNSEEN)[[SEEN, 0, SEEN + 1]][None]
    turned = torch.eye(SEEN + UNSEEN)[[SEEN, 0, SEEN + 2]][None]
    present = torch.ones(1, 3, dtype=torch.bool)
    assert name_regions(starts, present, sure, sure, text, SEEN).unseen_BR.tolist() == [[0, -1, 1]]
    assert name_regions(starts, present, sure, 5 * turned, text, SEEN).unseen_BR.tolist() == [[0, -1, -1]]
    assert name_regions(starts, ~present, sure, sure, text, SEEN).unseen_BR.tolist() == [[-1, -1, -1]]


@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.9])
def test_a_name_needs_the_quantile_of_the_last_margins_of_its_class(quantile):
    memory, kept, rng = MarginMemory(UNSEEN, size=8), {u: [] for u in range(UNSEEN)}, np.random.default_rng(0)
    for _ in range(6):
        unseen = torch.from_numpy(rng.integers(-1, UNSEEN, (2, 4)))
        margin = torch.from_numpy(rng.random((2, 4)).astype(np.float32)) * (unseen >= 0)
        found = memory.accept(Named(unseen, margin), quantile)
        for u in range(UNSEEN):
            mine = unseen == u
            if not mine.any():
                continue
            kept[u] = [*kept[u], *margin[mine].tolist()][-8:]
            wanted = mine & (margin >= np.quantile(np.float32(kept[u]), quantile) - 1e-7)
            assert torch.equal(found == u, wanted)
        assert torch.equal(found[unseen < 0], unseen[unseen < 0])
    again = MarginMemory(UNSEEN, size=8)
    again.load_state_dict(memory.state_dict())
    named = Named(torch.zeros(1, 3, dtype=torch.int64), torch.tensor([[0.1, 0.5, 0.9]]))
    assert torch.equal(again.accept(named, 0.5), memory.accept(named, 0.5))


def test_regions_of_one_name_are_joined_and_all_others_stay():
    regions = torch.tensor([[[0, 1, 2], [3, 4, 255]], [[0, 0, 1], [1, 255, 2]]], dtype=torch.uint8)
    names = torch.tensor([[1, -1, 1, 0, 1], [-1, 2, -1, -1, -1]])
    joined = merged_regions(regions, names)
    assert joined.tolist() == [[[0, 1, 0], [3, 0, 255]], [[0, 0, 1], [1, 255, 2]]]
    assert joined.dtype == torch.uint8
