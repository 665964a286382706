"""What counts in the fingerprint of a run, by which a schedule notices that nothing has changed."""

import os
import shutil
import sys

import numpy as np
import pytest

from cliptea.errors import ConfigError, StorageError
from cliptea.manifest import VERSIONS
from cliptea.parts import Part
from cliptea.preset_files import read_preset
from cliptea.steps.resolve import start_run
from cliptea.storage import open_store
from cliptea.storage.local_files import partial_name
from cliptea.storage.marks import MARK, read_mark
from cliptea_pipeline.leftovers import read_lists

FARM = """
import numpy as np

from cliptea.data.catalogue import make_catalogue
from cliptea.data.sample import Sample, encode_png


class Farm:
    def __init__(self, config):
        self.catalogue = make_catalogue(["sky", "cow"], config.unseen or ["cow"])

    def ids(self, split):
        return [f"{split}1", f"{split}2"]

    def check(self, split):
        return []

    def left_out(self, splits):
        return {}

    def read(self, split, name):
        return Sample(encode_png(np.zeros((8, 8, 3), np.uint8)), "png", np.zeros((8, 8), np.uint8))

    def digest(self, splits=("train", "val")):
        return "d"
"""


@pytest.fixture
def started(tmp_path, monkeypatch, empty_database):
    """Starts a run of the preset smoke, or of the text of a preset file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPTEA_STORE", (tmp_path / "store").as_uri())
    monkeypatch.setenv("CLIPTEA_EVENTS", str(tmp_path / "events"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_database, tmp_path)}")

    def started(*overrides, file="", part=""):
        (tmp_path / "my.yaml").write_text(file)
        name, text = ("my.yaml", read_preset("my.yaml")) if file else ("smoke", "")
        return start_run(name, ["teacher.weights=demo", *overrides], f"job{part}", text, part)

    return started


def test_the_store_is_marked_and_swept_and_a_folder_of_somebody_else_is_refused_first(started, tmp_path):
    store = tmp_path / "store"
    left = store / "uses" / partial_name()
    left.parent.mkdir(parents=True)
    left.touch()
    os.utime(left, (1, 1))
    started()
    assert read_mark(store)["kind"] == "store"
    assert not left.exists()
    (store / MARK).unlink()
    (store / "notes.txt").touch()
    before = sorted(store.rglob("*"))
    with pytest.raises(StorageError, match=r"store holds files that are not from cliptea; .*set CLIPTEA_STORE"):
        started()
    assert sorted(store.rglob("*")) == before


def test_the_students_of_own_groups_count_and_not_how_they_are_written(started):
    def fp(groups, variants="mine"):
        return started(file=f"preset: smoke\nvariants: [{variants}]\nvariant_groups: {groups}").fingerprint

    first = fp("{mine: {a: {train: {iterations: 3}}}}")
    assert first == fp("{mine: {a: {train: {iterations: 03}}}}")
    assert first == fp("{mine: {a: {train: {iterations: 3}}}, other: {b: {train: {iterations: 4}}}}")
    assert first != fp("{mine: {a: {train: {iterations: 4}}}}")
    single = fp("{mine: {a: {}, b: {seeds: 2}}}", "mine/a")
    assert single == fp("{mine: {a: {}, b: {seeds: 3}}}", "mine/a") != fp("{mine: {a: {seeds: 2}}}", "mine/a")
    shipped = started("variants=[table4/max]", file="preset: smoke")
    unused = started("variants=[table4/max]", file="preset: smoke\nvariant_groups: {mine: {a: {}}}")
    assert shipped.fingerprint == unused.fingerprint


def test_synonyms_count(started):
    runs = [started(), *(started(f"data.synonyms.zebra={names}") for names in ("[horse]", "[horse, foal]"))]
    assert len({run.fingerprint for run in runs}) == 3
    assert runs[0].fingerprint == started("data.synonyms={}").fingerprint


def test_a_data_set_of_ones_own_counts_with_its_module(started, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    own = "data.dataset=farm_of_runs:Farm"
    (tmp_path / "farm_of_runs.py").write_text(FARM)
    first = started(own)
    assert (first.config.data.name, first.fingerprint) == ("Farm", started(own).fingerprint)
    changes = [started(own, setting).fingerprint for setting in ("data.seed=1", "data.unseen=[sky]")]
    monkeypatch.delitem(sys.modules, "farm_of_runs")
    (tmp_path / "farm_of_runs.py").write_text(f"{FARM}\n# read in another way\n")
    other = started(own)
    assert len({first.fingerprint, *changes, other.fingerprint}) == 4
    assert first.data_digest != other.data_digest


@pytest.mark.parametrize("change", ["{train: {workers: 1}}", "{train: {checkpoint_every: 7}}"])
def test_variants_that_are_one_student_are_refused(started, change):
    """They would be trained twice at once, into one output."""
    with pytest.raises(ConfigError) as caught:
        started(file=f"preset: smoke\nvariants: [mine]\nvariant_groups: {{mine: {{a: {{}}, b: {change}}}}}")
    assert str(caught.value).startswith(
        "the variants mine/a and mine/b would train the same student, because their settings differ"
    )
    assert len(started(file="preset: smoke\nvariants: [mine]\nvariant_groups: {mine: {a: {}, b: {}}}").variants) == 1


def test_other_weights_and_other_versions_of_steps_make_it_another_run(started, tmp_path, monkeypatch):
    """MLflow's run has the scores of its students, so other students need another one."""

    file = tmp_path / "text.npy"

    def with_features():
        return started(f"teacher.text_features={file}")

    np.save(file, np.zeros((12, 64), np.float32))
    first, same = with_features(), with_features()
    np.save(file, np.ones((12, 65), np.float32))
    other = with_features()
    assert first.config == other.config
    assert (first.fingerprint, first.tracking_run) == (same.fingerprint, same.tracking_run)
    assert first.fingerprint != other.fingerprint
    assert first.tracking_run != other.tracking_run
    monkeypatch.setitem(VERSIONS, "train", VERSIONS["train"] + 1)
    assert with_features().fingerprint != other.fingerprint


def test_parts_have_fingerprints_of_their_own_and_list_the_outputs_of_all(started):
    whole, *parts = [started(part=part) for part in ("", "1/3", "2/3", "3/3")]
    assert len({run.fingerprint for run in (whole, *parts)}) == 4
    assert [variant for part in parts for variant in part.variants] == whole.variants
    assert [part.part.number for part in parts] == [1, 2, 3]
    assert [part.fingerprint for part in parts] == [output.fingerprint for output in parts[0].parts]
    assert all(part.parts == parts[0].parts for part in parts)
    assert (whole.part, whole.parts) == (Part(1, 1), [])
    lists = read_lists(open_store())
    listed = lists.outputs([whole.tracking_run])
    for part in parts:
        assert lists.outputs([part.tracking_run]) == listed | {*part.parts}
    assert len({run.tracking_run for run in (whole, *parts)}) == 4


def test_what_counts_for_a_run_counts_for_all_of_its_parts(started):
    """Also what is no setting of the part's own students."""
    first = started(part="1/2")
    assert not {*first.parts} & {*started("train.iterations=7", part="1/2").parts}
    assert not {*first.parts} & {*started("seeds=2", part="1/2").parts}
    assert not {*first.parts} & {*started(part="1/3").parts}
    assert first.parts == started(part="1/2").parts


def test_a_part_that_does_not_exist_is_refused(started):
    with pytest.raises(ConfigError, match=r"part='3/2' is not a part of a run; expected its number and their count"):
        started(part="3/2")
    with pytest.raises(ConfigError, match=r"4 students .* cannot be split into 5 runs; expected at most 4 runs"):
        started(part="1/5")


def test_on_a_cluster_a_share_needs_room(started, monkeypatch):
    monkeypatch.delenv("CLIPTEA_EVENTS")
    monkeypatch.setenv("CLIPTEA_STUDENTS", "2")
    with pytest.raises(ConfigError, match=r"4 students .* too many for one run .* cliptea submit --split 2;"):
        started()
    assert [len(started(part=part).variants) for part in ("1/2", "2/2")] == [2, 2]


def test_a_further_set_whose_unseen_classes_have_masks_in_training_is_warned_of(started, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "farm_with_masks.py").write_text(FARM)
    own = ["data.dataset=farm_with_masks:Farm", "evaluation.sets.other.dataset=farm_with_masks:Farm"]
    started(*own)
    assert "optimistic" not in (tmp_path / "events").read_text()
    started(*own, "evaluation.sets.other.unseen=[sky]")
    said = "evaluation.sets.other calls sky unseen, but training has masks of this class"
    assert said in (tmp_path / "events").read_text()
