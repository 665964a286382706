"""The split step: what the shards hold, and above all what the train shards do not."""

import numpy as np
import pytest

from cliptea import settings
from cliptea.data.catalogue import Catalogue, make_catalogue
from cliptea.data.datasets import open_dataset
from cliptea.data.records import LABEL
from cliptea.data.sample import decode_image, decode_labels
from cliptea.data.shards import ShardReader
from cliptea.data.split_shards import hide_unseen
from cliptea.errors import ConfigError, DataError
from cliptea.run import Run
from cliptea.steps.split import make_splits
from cliptea.storage import open_store


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPTEA_STORE", (tmp_path / "store").as_uri())
    config = settings.load("smoke", ["data.world.train_scenes=40", "data.world.val_scenes=20"])
    digest = open_dataset(config.data).digest()
    return Run(config=config, data_digest=digest, fingerprint="f", job_id="j", tracking_run="t", variants=[])


def test_no_train_shard_holds_an_unseen_label_and_nothing_else_is_lost(run):
    split = make_splits(run).own
    catalogue = Catalogue.model_validate(split.info["catalogue"])
    dataset, unseen_pixels = open_dataset(run.config.data), 0
    for part in ("train", "val"):
        reader = ShardReader(open_store(), split.objects, part)
        assert reader.names == dataset.ids(part)
        for name in reader.names:
            sample, labels = dataset.read(part, name), decode_labels(reader.read(name, LABEL), name)
            hidden = np.isin(sample.labels, catalogue.unseen_ids)
            unseen_pixels += hidden.sum()
            wanted = np.where(hidden, 255, sample.labels) if part == "train" else sample.labels
            np.testing.assert_array_equal(labels, wanted)
            np.testing.assert_array_equal(
                decode_image(reader.read(name, "png"), name), decode_image(sample.image, name)
            )
    assert unseen_pixels > 0


def test_counts_are_those_of_the_labels(run):
    split = make_splits(run).own
    dataset = open_dataset(run.config.data)
    labels = np.stack([dataset.read("val", name).labels for name in dataset.ids("val")])
    for index, name in enumerate(dataset.catalogue.classes):
        counts = split.info["counts"]["val"]["classes"][name]
        assert counts["pixels"] == (labels == index).sum()
        assert counts["images"] == (labels == index).any((1, 2)).sum()
        if name in dataset.catalogue.unseen:
            assert split.info["counts"]["train"]["classes"][name]["pixels"] == 0


def test_a_second_call_makes_nothing(run):
    first = make_splits(run)
    store = open_store()
    before = list(store.entries(""))
    assert make_splits(run) == first
    assert list(store.entries("")) == before


def test_train_images_without_a_seen_class_are_counted_and_named_also_after_a_kill(run, monkeypatch):
    dataset = open_dataset(run.config.data)
    unseen = dataset.catalogue.unseen_ids[0]
    alone = [name for number, name in enumerate(dataset.ids("train")) if number % 6 == 1]
    read = type(dataset).read

    def changed(self, part, name):
        sample = read(self, part, name)
        return sample._replace(labels=np.full_like(sample.labels, unseen)) if name in alone else sample

    monkeypatch.setattr(type(dataset), "read", changed)
    split = make_splits(run).own
    wanted = (
        f"no seen class is in {len(alone)} of 40 train images, so training has no labels for these: "
        f"{', '.join(alone[:5])}, and {len(alone) - 5} more"
    )
    assert wanted in split.info["problems"]
    open_store().delete(split.output.manifest_key)  # so that complete shards are taken over
    assert wanted in make_splits(run).own.info["problems"]


def test_a_train_part_without_any_seen_class_is_refused(run, monkeypatch):
    dataset = open_dataset(run.config.data)
    read, unseen = type(dataset).read, dataset.catalogue.unseen_ids[0]

    def changed(self, part, name):
        sample = read(self, part, name)
        return sample._replace(labels=np.full_like(sample.labels, unseen)) if part == "train" else sample

    monkeypatch.setattr(type(dataset), "read", changed)
    with pytest.raises(DataError, match="no train image shows a seen class"):
        make_splits(run)


def test_hiding_is_a_table_look_up():
    catalogue = Catalogue(classes=list("abcde"), unseen=["b", "e"])
    labels = np.array([[0, 1, 2], [3, 4, 255]], dtype=np.uint8)
    np.testing.assert_array_equal(hide_unseen(labels, catalogue), [[0, 255, 2], [3, 255, 255]])


@pytest.mark.parametrize("unseen", [[], ["a", "b"], ["x"]])
def test_a_catalogue_needs_both_groups(unseen):
    with pytest.raises(ConfigError):
        make_catalogue(["a", "b"], unseen)


def test_a_doubled_class_is_refused():
    with pytest.raises(ConfigError, match="twice"):
        make_catalogue(["a", "b", "a"], ["b"])
