"""What counts in the fingerprint of a run, by which a schedule notices that nothing has changed."""

import shutil
import sys

import pytest

from cliptea.errors import ConfigError
from cliptea.preset_files import read_preset
from cliptea.steps.resolve import start_run

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

    def started(*overrides, file=""):
        (tmp_path / "my.yaml").write_text(file)
        name, text = ("my.yaml", read_preset("my.yaml")) if file else ("smoke", "")
        return start_run(name, ["teacher.weights=demo", *overrides], "job", text)

    return started


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
    assert str(caught.value).startswith("the variants mine/a and mine/b are one student, because their settings differ")
    assert len(started(file="preset: smoke\nvariants: [mine]\nvariant_groups: {mine: {a: {}, b: {}}}").variants) == 1
