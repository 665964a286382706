"""Confusion matrix and scores against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, jaccard_score

from cliptea.errors import DataError
from cliptea.evaluation.metrics import confusion, per_class_iou, score


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    classes, unseen = 7, [1, 5]
    truth = rng.choice([*range(classes), 255], (40, 50)).astype(np.uint8)
    predicted = np.where(rng.random(truth.shape) < 0.6, np.minimum(truth, 6), rng.integers(0, classes, truth.shape))
    labelled = truth != 255
    flat, guessed = truth[labelled], predicted[labelled]
    matrix = confusion(torch.from_numpy(truth), torch.from_numpy(predicted), classes).numpy()
    np.testing.assert_array_equal(matrix, confusion_matrix(flat, guessed, labels=range(classes)))
    iou = jaccard_score(flat, guessed, labels=range(classes), average=None)
    np.testing.assert_allclose(per_class_iou(matrix), iou, rtol=1e-12)
    scores = score(matrix, unseen)
    u = iou[unseen].mean()
    s = np.delete(iou, unseen).mean()
    assert scores.pAcc == pytest.approx((flat == guessed).mean())
    assert (scores.miou_seen, scores.miou_unseen) == (pytest.approx(s), pytest.approx(u))
    assert scores.hiou == pytest.approx(2 * s * u / (s + u))


def test_a_class_without_pixels_is_left_out_and_a_wrong_one_counts():
    matrix = np.array([[5, 0, 0, 0], [0, 0, 0, 0], [0, 0, 3, 1], [0, 0, 0, 0]])
    iou = per_class_iou(matrix)
    assert iou[0] == 1
    assert np.isnan(iou[1])
    assert (iou[2], iou[3]) == (0.75, 0.0)  # class 3 has no pixel, but one was given to it
    scores = score(matrix, [1, 3])
    assert (scores.miou_seen, scores.miou_unseen, scores.hiou) == (0.875, 0.0, None)  # nothing to find for [1, 3]
    assert score(matrix, [1, 2, 3]).hiou == pytest.approx(2 * 0.375 / 1.375)
    assert score(matrix, [1]).hiou is None


@pytest.mark.parametrize("classes", [4, 255])
def test_matrices_add_up(classes):
    rng = np.random.default_rng(0)
    truth = torch.from_numpy(rng.integers(0, 256, (6, 10, 10), dtype=np.uint8))
    truth[(truth >= classes)] = 255
    predicted = torch.from_numpy(rng.integers(0, classes, (6, 10, 10), dtype=np.uint8))
    total = np.zeros((classes, classes), dtype=np.int64)
    labelled = (truth != 255).numpy()
    np.add.at(total, (truth.numpy()[labelled], predicted.numpy()[labelled]), 1)
    for matrix in (confusion(truth, predicted, classes), sum(map(confusion, truth, predicted, [classes] * 6))):
        assert matrix.dtype == torch.int64
        np.testing.assert_array_equal(matrix, total)


@pytest.mark.parametrize(("wrong", "classes"), [(4, 4), (5, 4), (254, 4), (254, 254)])
def test_a_train_id_that_is_not_that_of_a_class_is_an_error(wrong, classes):
    truth = torch.tensor([[0, 3, 255, wrong]], dtype=torch.uint8)
    with pytest.raises(DataError, match=f"the train id {wrong}; expected ids below {classes}"):
        confusion(truth, torch.zeros_like(truth), classes)
