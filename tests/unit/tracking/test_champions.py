"""Promotion as a function of scores and choices: better, worse, tie, first, other evaluation, no score, rollback."""

import pytest

from cliptea.tracking.champions import Choice, Score, decide, replay


def scores(*hious, margin=0.0, evaluation="set"):
    return {number: Score(hiou, evaluation, margin) for number, hiou in enumerate(hious, start=1)}


@pytest.mark.parametrize(
    ("hiou", "champion", "margin", "promoted", "words"),
    [
        (0.5, None, 0.0, True, "first champion, hIoU 50.00 %"),
        (0.5, Score(0.4, "set", 0.0), 0.0, True, "hIoU 50.00 % beats the champion's 40.00 %"),
        (0.5, Score(0.5, "set", 0.0), 0.0, False, "hIoU 50.00 % equals the champion's, so the champion stays"),
        (0.50001, Score(0.50002, "set", 0.0), 0.0, False, "hIoU 50.0010 % does not beat the champion's 50.0020 %"),
        (0.4, Score(0.5, "set", 0.0), 0.0, False, "hIoU 40.00 % does not beat the champion's 50.00 %"),
        (0.52, Score(0.5, "set", 0.0), 0.05, False, "by more than 5 points"),
        (0.9, Score(0.5, "another set", 0.0), 0.0, False, "another evaluation set"),
        (0.9, Score(None, "", 0.0), 0.0, False, "has none"),
        (None, None, 0.0, False, "no hIoU"),
    ],
)
def test_only_a_better_model_on_the_same_set_is_promoted(hiou, champion, margin, promoted, words):
    decision = decide(Score(hiou, "set", margin), champion)
    assert decision.promoted is promoted
    assert words in decision.reason


def test_versions_are_decided_in_the_order_of_their_numbers():
    assert replay(scores(0.4, 0.3, 0.6, 0.6), []).champions == [1, 3]
    assert replay(scores(0.5, 0.56, 0.58, margin=0.05), []).champions == [1, 2]
    assert replay(dict(reversed(scores(0.4, 0.3, 0.6).items())), []).champions == [1, 3]


def test_a_rollback_holds_until_a_later_model_is_better_than_the_one_gone_back_to():
    back = Choice(after=3, moment=1, version=1)
    assert replay(scores(0.4, 0.3, 0.6), [back]).champions == [1]
    history = replay(scores(0.4, 0.3, 0.6, 0.35, 0.5), [back])
    assert history.champions == [1, 5]
    assert history.decisions[3].promoted
    assert not history.decisions[4].promoted


def test_two_rollbacks_after_the_same_version_go_back_twice():
    choices = [Choice(3, 20, 1), Choice(3, 10, 2)]
    assert replay(scores(0.1, 0.2, 0.3), choices).champions == [1]


def test_a_choice_by_hand_is_what_later_models_must_beat():
    history = replay(scores(0.4, 0.3, 0.35), [Choice(2, 1, 2)])
    assert history.champions == [1, 2, 3]


def test_deleted_versions_leave_the_others_in_order():
    left = {number: score for number, score in scores(0.4, 0.5, 0.45, 0.48).items() if number != 2}
    assert replay(left, [Choice(2, 1, 1), Choice(2, 2, 2)]).champions == [1, 3, 4]
