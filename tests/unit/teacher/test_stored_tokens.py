"""Stored tokens and region maps: the teacher's on the same views, whoever makes them and however often it stops."""

import numpy as np
import pytest
import torch

from cliptea import env, progress
from cliptea.data.records import REGION_TOKENS, read_array, read_view, record_name
from cliptea.data.shard_sets import read_top_index
from cliptea.data.shards import ShardReader
from cliptea.errors import ConfigError, StorageError
from cliptea.files import sha256
from cliptea.method.plm import ignored_tokens
from cliptea.method.regions import region_maps
from cliptea.steps.teacher import publish_cache
from cliptea.steps.tokens import MadePart, make_tokens
from cliptea.storage import FileStore
from cliptea.teacher import blocks
from cliptea.teacher.clip import Teacher, load_teacher
from cliptea.teacher.outputs import ClipTime


def count_clip(monkeypatch):
    """How many views CLIP sees from now on."""
    seen, tokens = [], Teacher.tokens

    def counted(self, images, valid):
        seen.append(len(images))
        return tokens(self, images, valid)

    monkeypatch.setattr(Teacher, "tokens", counted)
    return seen


def test_stored_is_what_a_fresh_forward_pass_gives_on_the_same_views(make, folder):
    made = make()
    config, seed = made.run.config.teacher, made.run.config.data.seed
    images = ShardReader(made.store, made.split.objects, "train")
    cls = ShardReader(made.store, made.cache.tokens.objects, "cls")
    dense = ShardReader(made.store, made.cache.clustered["dense"].objects, "dense")
    (key,) = made.cache.regions
    maps = ShardReader(made.store, made.cache.regions[key].objects, "regions")
    teacher, clustering = load_teacher(str(folder), "unused", config.crop), made.run.config.method.clustering
    assert len(cls) == len(dense) == len(maps) == 40
    of = {"split": made.split.fingerprint, "views_of_an_image": 2}
    assert made.cache.clustered["dense"].info == {"dim": 24, "grid": [6, 6], "views": 40, **of}
    clip = {"stand_in": False, "clip_sha256": sha256(folder / "open_clip_model.safetensors")}
    assert made.cache.tokens.info == {**made.cache.clustered["dense"].info, **clip}
    assert next(iter(made.cache.regions.values())).info.items() >= of.items()
    regions = 0
    for record in range(40):
        image, number = divmod(record, config.views)
        assert cls.name(record) == dense.name(record) == maps.name(record) == record_name(images.name(image), number)
        view = read_view(images, image, number, config, seed)
        for one, two in zip(view, read_view(images, images.name(image), number, config, seed), strict=True):
            np.testing.assert_array_equal(one, two)
        pixels, valid = torch.from_numpy(view.image.copy()).permute(2, 0, 1)[None], torch.from_numpy(view.valid)[None]
        cls_1D, dense_1Dgg = teacher.tokens(pixels, valid)
        stored = read_array(dense, record)
        assert read_array(cls, record).dtype == np.float32
        np.testing.assert_allclose(read_array(cls, record), cls_1D[0], rtol=1e-5, atol=1e-6)
        assert stored.dtype == np.float16
        np.testing.assert_allclose(stored, dense_1Dgg[0], rtol=2**-10, atol=1e-5)
        ignored = ignored_tokens(torch.from_numpy(view.labels)[None], valid, teacher.grid)
        (wanted,) = region_maps(torch.from_numpy(stored)[None], ignored, clustering)
        np.testing.assert_array_equal(read_array(maps, record), wanted)
        regions += len(wanted[wanted != 255].unique())
    assert made.cache.regions[key].info["regions_per_view"] == regions / 40


def test_two_workers_write_the_bytes_of_one(make):
    one = make()
    two = make("teacher.num_workers=2", store="other")
    assert two.files() == one.files()
    assert two.cache == one.cache
    assert (one.clip.views, one.clip.devices) == (two.clip.views, two.clip.devices) == (40, ["CPU core"])
    assert two.clip.seconds > 0


def test_parts_of_a_cluster_write_the_bytes_of_one(make, monkeypatch):
    one = make()
    other = make(store="other")
    whole = other.files()
    for entry in list(other.store.entries("")):
        if not entry.key.startswith("split"):
            other.store.delete(entry.key)
    made = [make_tokens(other.run, other.splits, part, 3) for part in (2, 0, 1)]
    assert [len(part.blocks) for part in made] == [1, 2, 1]
    seen = count_clip(monkeypatch)
    handed = [MadePart.model_validate_json(part.model_dump_json()) for part in made]
    again = publish_cache(other.run, other.splits, handed)
    assert seen == []
    assert again.model_copy(update={"clip": ClipTime()}) == one.cache
    assert other.files() == whole == one.files()


def test_small_shards_of_blocks_are_joined_and_large_ones_stay(make, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 24)
    made = make("teacher.crop=256", "teacher.base_scale=[256,256]")
    shards = {
        name: read_top_index(made.store, manifest.objects[name])
        for name, manifest in (("cls", made.cache.tokens), ("dense", made.cache.clustered["dense"]))
    }
    assert [shard.records for shard in shards["cls"]] == [40]
    assert [shard.records for shard in shards["dense"]] == [21, 3, 16]  # 32 * 32 * 24 fp16: 21 are a MiB
    keys = sorted(entry.key for kind in ("tokens", "dense", "regions") for entry in made.store.entries(kind))
    assert len(keys) == 2 + 6 + 2 + 3 * 2  # two files a shard, a top index and a manifest of each
    assert read_array(ShardReader(made.store, made.cache.clustered["dense"].objects, "dense"), 39).shape == (24, 32, 32)


@pytest.mark.parametrize("after", [1, 4, 9, 14, 24, 25, 26, 27, 28, 29, 32, 35])
def test_a_killed_step_goes_on_behind_its_last_whole_shards(make, monkeypatch, after):
    whole = make(store="whole")
    puts, put = [], FileStore.put

    def dying(self, key, data):
        if not key.startswith("split"):
            puts.append(key)
            if len(puts) > after:
                raise StorageError("killed")
        put(self, key, data)

    monkeypatch.setattr(FileStore, "put", dying)
    with pytest.raises(StorageError, match="killed"):
        make()
    monkeypatch.setattr(FileStore, "put", put)
    seen = count_clip(monkeypatch)
    found = make()
    assert found.cache == whole.cache
    assert found.files() == whole.files()
    assert sum(seen) == 40 - 12 * (after >= 6) - 12 * (after >= 12) - 12 * (after >= 18) - 4 * (after >= 24)


def test_a_new_clustering_setting_needs_no_clip_when_dense_tokens_are_kept(make, monkeypatch):
    first = make()
    seen = count_clip(monkeypatch)
    other = make("method.clustering.fusion_threshold=0.4")
    assert seen == []
    assert other.cache.tokens == first.cache.tokens
    fresh = make("method.clustering.fusion_threshold=0.4", store="other")
    assert sum(seen) == 40
    assert fresh.cache == other.cache
    assert fresh.cache.regions.keys() != first.cache.regions.keys()


def test_stored_tokens_are_not_clustered_without_the_gpus_of_the_step(make, monkeypatch):
    first = make()
    before = first.files()
    monkeypatch.setenv(env.GPUS.name, "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch can use 0 of the 1 GPU that the placement gives to this step"):
        make("method.clustering.fusion_threshold=0.4")
    assert first.files() == before
    assert make().cache == first.cache  # what is stored needs no GPU


@pytest.mark.parametrize("kind", ["value", "value_centred", "key"])
def test_maps_of_other_tokens_from_the_store_are_those_that_clip_gives(make, monkeypatch, kind):
    tokens = f"method.clustering.tokens={kind}"
    first = make(tokens)
    stored_kind = "value" if kind == "value_centred" else kind
    assert list(first.cache.clustered) == [stored_kind]
    seen = count_clip(monkeypatch)
    other = make(tokens, "method.clustering.fusion_threshold=0.4")
    assert seen == []
    fresh = make(tokens, "method.clustering.fusion_threshold=0.4", store="other")
    assert fresh.cache == other.cache
    assert fresh.cache.regions != make("method.clustering.fusion_threshold=0.4", store="other").cache.regions


def test_centred_tokens_are_clustered_without_the_mean_of_all_views(make):
    made = make("method.clustering.tokens=value_centred")
    values = ShardReader(made.store, made.cache.clustered["value"].objects, "value")
    maps = ShardReader(made.store, next(iter(made.cache.regions.values())).objects, "regions")
    images = ShardReader(made.store, made.split.objects, "train")
    config, clustering = made.run.config, made.run.config.method.clustering
    every = np.stack([read_array(values, record) for record in range(40)]).astype(np.float64)
    centred = torch.from_numpy((every - every.mean((0, 2, 3))[:, None, None]).astype(np.float32))
    for record in range(40):
        view = read_view(images, *divmod(record, config.teacher.views), config.teacher, config.data.seed)
        labels, valid = torch.from_numpy(view.labels)[None], torch.from_numpy(view.valid)[None]
        wanted = region_maps(centred[record : record + 1], ignored_tokens(labels, valid, (6, 6)), clustering)[0]
        assert (torch.from_numpy(read_array(maps, record)) != wanted).float().mean() < 0.05  # ties by rounding


@pytest.mark.parametrize("form", ["crop", "attention"])
def test_regions_are_stored_with_what_clip_says_of_them(make, folder, form, monkeypatch):
    made = make(f"method.clustering.region_tokens={form}")
    config = made.run.config
    (manifest,) = made.cache.regions.values()
    maps = ShardReader(made.store, manifest.objects, "regions")
    images = ShardReader(made.store, made.split.objects, "train")
    teacher = load_teacher(str(folder), "unused", config.teacher.crop)
    described = 0
    for record in range(0, 40, 5):
        view = read_view(images, *divmod(record, config.teacher.views), config.teacher, config.data.seed)
        pixels, valid = torch.from_numpy(view.image.copy()).permute(2, 0, 1)[None], torch.from_numpy(view.valid)[None]
        regions = torch.from_numpy(read_array(maps, record))[None]
        if form == "crop":
            (wanted,) = teacher.picture_tokens(pixels, valid, regions, 4)
        else:
            (wanted,) = teacher.region_tokens(teacher.encode(pixels, valid, ["dense"], 1).inputs, regions)
        found = read_array(maps, record, REGION_TOKENS)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
        described += len(found)
    assert described
    plain = make()
    (others,) = plain.cache.regions.values()
    same = ShardReader(made.store, others.objects, "regions")
    assert all(np.array_equal(read_array(maps, record), read_array(same, record)) for record in range(40))
    seen = count_clip(monkeypatch)
    assert make(f"method.clustering.region_tokens={form}").cache.regions == made.cache.regions
    assert seen == []


def test_without_dense_tokens_the_rest_is_the_same_and_a_new_setting_says_that_clip_runs_again(make, monkeypatch):
    kept, notes = make(), []
    bare = make("teacher.keep_dense=false", store="bare")
    assert bare.cache.clustered == {}
    assert not list(bare.store.entries("dense"))
    assert bare.cache.model_dump(exclude={"clustered"}) == kept.cache.model_dump(exclude={"clustered"})
    monkeypatch.setattr(progress, "note", notes.append)
    seen = count_clip(monkeypatch)
    again = make("teacher.keep_dense=false", store="bare")
    assert (again.cache, seen, notes) == (bare.cache, [], [])
    new = make("teacher.keep_dense=false", "method.clustering.rounds=1", store="bare")
    assert notes == ["the tokens to cluster are not stored, so CLIP runs again for 1 new clustering setting"]
    assert sum(seen) == 40
    assert new.cache.tokens == kept.cache.tokens
    assert new.cache.regions == make("method.clustering.rounds=1").cache.regions


def test_a_lost_shard_is_made_again_and_nothing_else(make, monkeypatch):
    made = make()
    before = made.files()
    key = next(key for key in before if key.startswith("regions") and key.endswith(".tar"))
    made.store.delete(key)
    seen = count_clip(monkeypatch)
    assert make().cache == made.cache
    assert seen == []
    assert made.files() == before
