"""How long CLIP takes: measured beside other stages with a fake clock, added up over workers and parts, and kept."""

import threading
from types import SimpleNamespace

import pytest
import torch

from cliptea import progress
from cliptea.errors import StorageError
from cliptea.steps.clip_time import clip_time_output
from cliptea.steps.teacher import publish_cache
from cliptea.steps.tokens import MadePart, make_tokens
from cliptea.storage import FileStore
from cliptea.teacher import blocks, stopwatch
from cliptea.teacher.clip import Teacher
from cliptea.teacher.outputs import ClipTime

SECONDS = 0.5  # that the fake clock counts while CLIP encodes a view


class Clock(threading.local):
    """The time of a thread: what other threads do meanwhile takes none of it."""

    now = 0.0


@pytest.fixture
def clock(monkeypatch):
    """Encoding takes `SECONDS` for each view. Loading CLIP and waiting for views take much longer."""
    clock, encode, batched, open_teacher = Clock(), Teacher.encode, blocks._batched, blocks.open_teacher

    def encoding(self, images, *given):
        clock.now += SECONDS * len(images)
        return encode(self, images, *given)

    def waiting(items, size):
        for batch in batched(items, size):
            clock.now += 1000
            yield batch
            clock.now += 1000  # what the reader of the tokens does

    def loading(*given):
        clock.now += 1e6
        return open_teacher(*given)

    monkeypatch.setattr(Teacher, "encode", encoding)
    monkeypatch.setattr(blocks, "_batched", waiting)
    monkeypatch.setattr(blocks, "open_teacher", loading)
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


class Event:
    """Of a GPU that has done nothing before `synchronize`. Work on it is not seen by the clock of this process."""

    gpu, ready = 0.0, 0.0

    def __init__(self, enable_timing):
        assert enable_timing
        self.at = None

    def record(self):
        self.at = Event.gpu

    def synchronize(self):
        Event.ready = max(Event.ready, self.at)

    def elapsed_time(self, other):
        assert self.at <= other.at <= Event.ready
        return 1000 * (other.at - self.at)


def test_a_gpu_is_measured_by_its_own_events(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda where: f"GPU of {where.type}")
    watch, wanted = stopwatch.Stopwatch(torch.device("cuda")), 0.0
    for views, seconds in ((4, 0.25), (4, 0.5), (2, 3.0)):
        Event.gpu += 50.0  # other work
        with watch.running(views):
            Event.gpu += seconds
        wanted += seconds
    assert watch.read() == ClipTime(views=10, seconds=wanted, devices=["GPU of cuda"])


def forget(made):
    """Delete all that the teacher step has left."""
    for entry in list(made.store.entries("")):
        if not entry.key.startswith("split"):
            made.store.delete(entry.key)


def handed(*parts):
    """Parts as the teacher step gets them."""
    return [MadePart.model_validate_json(part.model_dump_json()) for part in parts]


@pytest.mark.parametrize("threads", [1, 2])
def test_only_encoding_counts_with_all_cores_that_it_has(make, clock, monkeypatch, threads):
    monkeypatch.setenv("CLIPTEA_THREADS", str(threads))
    try:
        assert make().clip == ClipTime(views=40, seconds=threads * 40 * SECONDS, devices=["CPU core"])
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("setting", ["clustering.tokens=value_centred", "clustering.region_tokens=attention"])
def test_views_of_the_mean_and_descriptions_of_regions_do_not_count(make, clock, setting):
    assert make(f"method.{setting}").clip.seconds == 40 * SECONDS


def test_two_parts_are_added_up(make, clock):
    made = make()
    forget(made)
    second, first = make_tokens(made.run, made.splits, 1, 2), make_tokens(made.run, made.splits, 0, 2)
    assert [ClipTime.joined(block.clip for block in part.blocks).views for part in (first, second)] == [24, 16]
    assert publish_cache(made.run, made.splits, handed(first, second)).clip == made.clip


def test_what_a_part_has_measured_counts_even_if_another_part_is_lost(make, clock):
    made = make()
    forget(made)
    first, _ = make_tokens(made.run, made.splits, 0, 2), make_tokens(made.run, made.splits, 1, 2)
    clip = publish_cache(made.run, made.splits, handed(first)).clip
    assert (clip.views, clip.seconds) == (24, 24 * SECONDS)


def test_blocks_of_a_killed_run_are_not_measured_and_the_others_tell_the_time_of_all(make, clock, monkeypatch):
    puts, put = [], FileStore.put

    def dying(self, key, data):
        puts.append(key)
        if len([key for key in puts if not key.startswith("split")]) > 14:  # 6 for each block
            raise StorageError("killed")
        put(self, key, data)

    monkeypatch.setattr(FileStore, "put", dying)
    with pytest.raises(StorageError, match="killed"):
        make()
    monkeypatch.setattr(FileStore, "put", put)
    clip = make().clip
    assert (clip.views, clip.seconds) == (16, 16 * SECONDS)
    assert clip.seconds_for(40) == 40 * SECONDS


def test_a_measurement_is_kept_for_later_runs(make, clock, monkeypatch):
    first = make()
    monkeypatch.setattr("test_clip_time.SECONDS", 7.0)
    assert make().clip == first.clip
    assert make("method.clustering.fusion_threshold=0.4").clip == first.clip  # made from stored tokens
    assert make("method.clustering.region_tokens=attention").clip == first.clip  # CLIP runs again


def test_a_damaged_or_missing_measurement_leaves_one_without_views_until_clip_runs_again(make, clock, monkeypatch):
    said = []
    monkeypatch.setattr(progress, "note", said.append)
    made = make()
    key = clip_time_output(made.cache.tokens.output).manifest_key
    made.store.put(key, made.store.get(key).replace(b"20.0", b"21.0"))
    assert make().clip == ClipTime()
    assert [line for line in said if key in line and "made anew" in line]
    said.clear()
    assert make().clip == ClipTime()
    assert said == []
    made.store.delete(key)
    assert make().clip == ClipTime()
    for manifest in (made.cache.tokens, made.cache.clustered["dense"]):
        made.store.delete(manifest.output.manifest_key)
        for entry in list(made.store.entries(manifest.output.prefix)):
            made.store.delete(entry.key)
    assert make().clip == made.clip


def test_times_of_different_devices_have_no_sum():
    one, other = (ClipTime(views=2, seconds=3.0, devices=[name]) for name in ("A100", "CPU core"))
    assert ClipTime.joined([one, one]) == ClipTime(views=4, seconds=6.0, devices=["A100"])
    assert ClipTime.joined([one, other]) == ClipTime()
