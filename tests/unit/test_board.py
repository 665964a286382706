"""The board of a run, read again and again from the store."""

import json
import math
import time

import pytest

from cliptea import board, progress
from cliptea.board import BarStatus, BoardReader, StepStatus, posting, read_board, status_key
from cliptea.errors import ServerAway
from cliptea.storage import FileStore


class Counting(FileStore):
    """A store that counts what is fetched, and can be away for everything but its lists."""

    def __init__(self, root):
        super().__init__(root)
        self.fetched = []
        self.away = False

    def get(self, key, start=0, length=None):
        self.fetched.append(key)
        if self.away:
            raise ServerAway("the store is away")
        return super().get(key, start, length)


@pytest.fixture
def store(tmp_path):
    store = Counting(tmp_path)
    for number in range(5):
        write(store, f"variant {number}")
    return store


def write(store, label, beat=1, writer="step", **facts):
    key = status_key("j", "train", label, writer)
    status = StepStatus(step="train", label=label, beat=beat, started=1.0, updated=2.0, **facts)
    store.put(key, status.model_dump_json().encode())
    return key


def test_a_store_that_is_away_is_waited_for_once(store):
    store.away = True
    with pytest.raises(ServerAway):
        read_board(store, "j")
    assert len(store.fetched) == 1


def test_only_what_is_new_is_fetched(store):
    reader = BoardReader(store, "j")
    assert [status.beat for status in reader.read()] == [1] * 5
    assert len(store.fetched) == 5
    store.fetched.clear()
    changed = write(store, "variant 3", beat=22)
    assert {status.label: status.beat for status in reader.read()}["variant 3"] == 22
    assert store.fetched == [changed]
    store.delete(changed)
    assert len(reader.read()) == 4
    assert store.fetched == [changed]


def test_the_bar_of_a_helper_is_shown_only_as_long_as_it_is_told(store):
    bar = BarStatus(text="training", total=10, unit="it", done=5, rate=1.0, left=5.0, values={"loss": 0.5})
    key = write(store, "variant 3", writer="training", bar=bar)
    reader = BoardReader(store, "j")
    assert {status.label: status.bar for status in reader.read()}["variant 3"] == bar
    store.delete(key)
    assert {status.bar for status in reader.read()} == {None}


def test_what_cannot_be_read_is_left_out_and_fetched_once(store):
    store.put(status_key("j", "train", "variant 3"), b'{"step": 1}')
    reader = BoardReader(store, "j")
    assert len(reader.read()) == len(reader.read()) == 4
    assert len(store.fetched) == 5


BAR = {"text": "training", "total": 9, "unit": "it", "done": 1, "rate": 1.0, "left": 8.0, "values": {"loss": 0.5}}
HOSTILE = [
    {"rate": None}, {"total": "many"}, {"left": 1e300}, {"left": "inf"}, {"rate": -1.0}, {"values": {"loss": "x"}},
    {"values": None}, {"done": -1}, {"total": 10**30}, {"unit": 3},
]  # fmt: skip


@pytest.mark.parametrize("changes", [{}, *HOSTILE], ids=str)
def test_a_bar_in_the_store_that_nobody_could_show_is_left_out(store, changes):
    status = {"step": "train", "label": "variant 3", "started": 1.0, "updated": 2.0, "bar": BAR | changes}
    store.put(status_key("j", "train", "variant 3"), json.dumps(status).encode())
    assert len(BoardReader(store, "j").read()) == (4 if changes else 5)


@pytest.mark.parametrize("facts", [{"started": 1e300}, {"updated": -1.0}, {"beat": "x"}])
def test_a_status_with_absurd_times_is_left_out(store, facts):
    status = {"step": "train", "label": "variant 3", "started": 1.0, "updated": 2.0} | facts
    store.put(status_key("j", "train", "variant 3"), json.dumps(status).encode())
    assert len(BoardReader(store, "j").read()) == 4


def test_a_value_that_is_not_finite_does_not_hide_the_bar(tmp_path, monkeypatch):
    monkeypatch.setattr(board, "BEAT_SECONDS", 0.01)
    store, found = FileStore(tmp_path), []
    with posting(store, "j", "train"), progress.step("train"), progress.bar("training", 4) as bar:
        bar.update(1, loss=math.nan, other=0.5)
        bar.tell()
        until = time.monotonic() + 5
        while not (found and found[0].bar) and time.monotonic() < until:
            found = read_board(store, "j")
    assert found[0].bar.values == {"other": 0.5}
