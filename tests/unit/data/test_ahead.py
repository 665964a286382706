"""Results in order, a bounded number in advance, and an error at its turn."""

import threading
import time

import pytest

from cliptea.data.ahead import THREADS, ahead


def test_results_are_in_order_whoever_is_first():
    def slow_at_first(item):
        time.sleep(0.02 / (1 + item))
        return item * item

    assert list(ahead(slow_at_first, range(50))) == [item * item for item in range(50)]
    assert list(ahead(slow_at_first, [])) == []


def test_several_are_under_way_but_not_all():
    meet, begun = threading.Barrier(THREADS), []

    def work(item):
        begun.append(item)
        if item < THREADS:
            meet.wait(timeout=10)  # passes only when THREADS of them run at once
        return item

    results = ahead(work, range(1000))
    assert next(results) == 0
    assert len(begun) <= 2 * THREADS + 1
    results.close()
    assert len(begun) <= 2 * THREADS + 1


def test_an_error_ends_the_work():
    done = []

    def work(item):
        if item == 30:
            raise ValueError("thirty")
        done.append(item)
        return item

    results = ahead(work, range(1000))
    assert [next(results) for _ in range(30)] == list(range(30))
    with pytest.raises(ValueError, match="thirty"):
        next(results)
    assert len(done) <= 30 + 2 * THREADS + 1
