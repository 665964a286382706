"""Global token, bank and L_global against naive NumPy, and the paper's anchors."""

import io
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cliptea.method.glm import TokenBank, attend, global_loss


def _inputs(seed, images=3, channels=16, size=(5, 7), masked=True):
    generator = torch.Generator().manual_seed(seed)
    cls = torch.randn(images, channels, generator=generator) * 3
    features = torch.randn(images, channels, *size, generator=generator)
    valid = torch.rand(images, *size, generator=generator) > 0.4 if masked else None
    return cls, features, valid


def _naive_attend(cls, features, valid, mode, unit_query):
    cls, features = cls.double().numpy(), features.double().numpy()
    images, channels, rows, columns = features.shape
    tokens, weights = np.zeros((images, channels)), np.zeros((images, rows, columns))
    for b in range(images):
        places = [(r, c) for r in range(rows) for c in range(columns) if valid is None or valid[b, r, c]]
        if mode == "max":
            for d in range(channels):
                best = max(places, key=lambda place: features[b, d, place[0], place[1]])
                tokens[b, d] = features[b, d, best[0], best[1]]
                weights[b, best[0], best[1]] += 1 / channels
            continue
        query = cls[b] / np.linalg.norm(cls[b]) if unit_query else cls[b]
        share = [math.exp(query @ features[b, :, r, c] / math.sqrt(channels)) for r, c in places]
        share = [1.0] * len(places) if mode == "mean" else share
        for (r, c), value in zip(places, share, strict=True):
            weights[b, r, c] = value / sum(share)
            tokens[b] += weights[b, r, c] * features[b, :, r, c]
    return tokens, weights


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    ("mode", "unit_query"), [("attention", False), ("attention", True), ("max", False), ("mean", False)]
)
def test_attend_equals_naive(seed, masked, mode, unit_query):
    cls, features, valid = _inputs(seed, masked=masked)
    token, weights = attend(cls, features, valid, mode, unit_query)
    expected_token, expected_weights = _naive_attend(cls, features, valid, mode, unit_query)
    np.testing.assert_allclose(token.numpy(), expected_token, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(weights.numpy(), expected_weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_attention_gradient_equals_scaled_dot_product_attention_in_float64(seed):
    cls, features, valid = _inputs(seed)
    pull = torch.randn(3, 16)
    features.requires_grad_()
    attend(cls, features, valid).token_BD.backward(pull)
    wide = features.detach().double().requires_grad_()
    keys = wide.flatten(2).mT
    mask = valid.flatten(1)[:, None]
    out = F.scaled_dot_product_attention(cls.double()[:, None], keys, keys, attn_mask=mask)
    out[:, 0].backward(pull.double())
    torch.testing.assert_close(features.grad.double(), wide.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["attention", "max", "mean"])
def test_image_without_valid_position_is_zero_and_leaves_gradients_finite(mode):
    cls, features, valid = _inputs(0)
    valid[1] = False
    features.requires_grad_()
    token, weights = attend(cls, features, valid, mode)
    assert token[1].eq(0).all()
    assert weights[1].eq(0).all()
    global_loss(cls, token, torch.arange(3), TokenBank()).backward()
    assert features.grad.isfinite().all()
    assert features.grad[1].eq(0).all()
    assert features.grad[0].abs().sum() > 0


def test_attention_survives_logits_that_overflow_half_precision():
    cls, features, valid = _inputs(0)
    with torch.autocast("cpu", torch.bfloat16):
        token = attend(cls * 400, features.bfloat16() * 100, valid).token_BD
    expected = attend(cls * 400, features.bfloat16().float() * 100, valid).token_BD
    assert token.dtype == torch.float32
    torch.testing.assert_close(token, expected, rtol=1e-2, atol=1e-1)


def test_unknown_mode_is_named():
    cls, features, _ = _inputs(0)
    with pytest.raises(ValueError, match="'median'"):
        attend(cls, features, mode="median")


def _naive_loss(cls, student, ids, bank, temperature):
    cls, student = cls.double().numpy(), student.double().numpy()
    unit = [row / np.linalg.norm(row) for row in cls]
    others = [*zip(unit, ids, strict=True)]
    others += [*zip(bank.tokens.double().numpy(), bank.image_ids.tolist(), strict=True)]
    total = 0.0
    for i, row in enumerate(student / np.linalg.norm(student, axis=1, keepdims=True)):
        positive = math.exp(unit[i] @ row / temperature)
        negatives = [
            math.exp(token @ row / temperature) for k, (token, owner) in enumerate(others) if k != i and owner != ids[i]
        ]
        total -= math.log(positive / (positive + sum(negatives)))
    return total / len(student)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("earlier", [0, 3])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_global_loss_equals_naive(seed, earlier, temperature):
    generator = torch.Generator().manual_seed(seed)
    bank = TokenBank(24)
    for _ in range(earlier):
        bank.enqueue(torch.randn(4, 8, generator=generator) * 5, torch.randint(0, 6, (4,), generator=generator))
    cls, student = torch.randn(2, 5, 8, generator=generator) * 2
    ids = torch.tensor([0, 1, 2, 1, 4])  # rows 1 and 3 are views of one image
    expected = _naive_loss(cls, student, ids.tolist(), bank, temperature)
    assert global_loss(cls, student, ids, bank, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_global_loss_gradient_equals_float64():
    cls, student = torch.randn(2, 6, 8)
    student.requires_grad_()
    global_loss(cls, student, torch.arange(6), TokenBank()).backward()
    wide = student.detach().double().requires_grad_()
    cosine = F.cosine_similarity(wide[:, None], cls.double()[None], dim=2)
    (-(cosine / 0.07).log_softmax(1).diagonal().mean()).backward()
    torch.testing.assert_close(student.grad.double(), wide.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_random_features_and_a_full_bank_cost_6_2(seed):
    torch.manual_seed(seed)
    bank = TokenBank(24)
    for step in range(24):
        bank.enqueue(torch.randn(16, 512), torch.arange(16) + 1000 * (step + 1))
    assert len(bank) == 384
    loss = global_loss(torch.randn(16, 512), torch.randn(16, 512), torch.arange(16), bank)
    assert loss.item() == pytest.approx(6.2, abs=0.2)


def test_matching_tokens_cost_nothing():
    cls = torch.eye(8)
    assert global_loss(cls, 3 * cls, torch.arange(8), TokenBank()).item() < 1e-4


def test_entries_of_the_same_image_are_no_negatives():
    cls, student = torch.randn(2, 2, 8)
    bank = TokenBank()
    bank.enqueue(student, torch.tensor([7, 8]))  # the hardest possible negatives
    alone = global_loss(cls, student, torch.tensor([7, 8]), TokenBank())
    own_views = global_loss(cls, student, torch.tensor([7, 8]), bank)
    strangers = global_loss(cls, student, torch.tensor([1, 2]), bank)
    # Row 0 meets the bank's 8 and row 1 its 7, so only the own entries disappear.
    assert strangers > own_views > alone
    bank_of_one = TokenBank()
    bank_of_one.enqueue(student[:1], torch.tensor([7]))
    first = global_loss(cls, student[:1], torch.tensor([7, 8]), bank_of_one)
    assert first.item() == pytest.approx(global_loss(cls, student[:1], torch.tensor([7, 8]), TokenBank()).item())


def test_two_views_of_one_image_do_not_repel_each_other():
    cls, student = torch.randn(2, 2, 8)
    assert global_loss(cls, student, torch.tensor([3, 3]), TokenBank()).item() == 0.0
    assert global_loss(cls, student, torch.tensor([3, 4]), TokenBank()).item() > 0.0


def test_rows_of_other_processes_are_negatives_only():
    cls, student = torch.randn(2, 6, 8)
    bank = TokenBank()
    bank.enqueue(cls[2:], torch.arange(2, 6))
    gathered = global_loss(cls, student[:2], torch.arange(6), TokenBank())
    assert gathered.item() == pytest.approx(global_loss(cls[:2], student[:2], torch.arange(2), bank).item(), rel=1e-5)


def test_batch_order_only_permutes():
    cls, student = torch.randn(2, 6, 8)
    ids, order = torch.tensor([0, 1, 1, 2, 3, 4]), torch.tensor([3, 0, 5, 1, 4, 2])
    bank = TokenBank()
    bank.enqueue(torch.randn(5, 8), torch.arange(5))
    straight, shuffled = student.clone().requires_grad_(), student[order].requires_grad_()
    loss, same = global_loss(cls, straight, ids, bank), global_loss(cls[order], shuffled, ids[order], bank)
    (loss + same).backward()
    assert loss.item() == pytest.approx(same.item(), rel=1e-5)
    torch.testing.assert_close(straight.grad[order], shuffled.grad)


def test_bank_is_first_in_first_out_over_iterations_of_any_size():
    bank = TokenBank(iterations=3)
    assert len(bank) == 0
    batches = [torch.randn(size, 4) * 9 for size in (2, 5, 1, 3, 4)]
    for step, batch in enumerate(batches):
        bank.enqueue(batch, torch.full((len(batch),), step, dtype=torch.int32))
    kept = torch.cat(batches[2:]).numpy()
    np.testing.assert_allclose(bank.tokens.numpy(), kept / np.linalg.norm(kept, axis=1, keepdims=True), rtol=1e-6)
    assert bank.image_ids.tolist() == [2] + [3] * 3 + [4] * 4
    assert bank.image_ids.dtype == torch.int64


def test_bank_of_no_iterations_stays_empty():
    bank = TokenBank(iterations=0)
    bank.enqueue(torch.randn(2, 4), torch.arange(2))
    assert len(bank) == 0
    assert global_loss(torch.eye(4), torch.eye(4), torch.arange(4), bank).item() < 1e-4


def test_bank_keeps_no_graph():
    bank = TokenBank()
    bank.enqueue(torch.randn(2, 4, requires_grad=True), torch.arange(2))
    assert not bank.tokens.requires_grad


@pytest.mark.parametrize("enqueued", [0, 1, 5])
def test_bank_round_trip_through_a_weights_only_checkpoint(enqueued):
    bank, file = TokenBank(3), io.BytesIO()
    for step in range(enqueued):
        bank.enqueue(torch.randn(step + 1, 4), torch.arange(step + 1))
    torch.save(bank.state_dict(), file)
    file.seek(0)
    restored = TokenBank(3)
    restored.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(2):  # the restored bank also forgets at the right moment
        assert torch.equal(bank.tokens, restored.tokens)
        assert torch.equal(bank.image_ids, restored.image_ids)
        more = torch.randn(2, 4)
        bank.enqueue(more, torch.tensor([50, 51]))
        restored.enqueue(more, torch.tensor([50, 51]))


def test_smaller_bank_loads_the_newest_iterations_of_a_larger_one():
    large, small = TokenBank(4), TokenBank(2)
    for step in range(4):
        large.enqueue(torch.randn(2, 4), torch.full((2,), step))
    small.load_state_dict(large.state_dict())
    assert small.image_ids.tolist() == [2, 2, 3, 3]
    assert torch.equal(small.tokens, large.tokens[4:])
