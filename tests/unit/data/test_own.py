"""A data set of the user's own: the example of docs/data.md, and what is no data set."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliptea import settings
from cliptea.config import DataConfig
from cliptea.data.datasets import data_digest, open_dataset
from cliptea.data.sample import decode_image
from cliptea.data.split_shards import write_split
from cliptea.errors import ConfigError, DataError
from cliptea.own_code import source_of
from cliptea.plan import make_plan
from cliptea.storage import FileStore

PAGE = Path(__file__).parents[3] / "docs/data.md"
CODE = next(
    block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL) if "Farm" in block
)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of that name, which can be imported during the test only."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name, code):
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return tmp_path / f"{name}.py"

    return write


@pytest.fixture
def farm(tmp_path):
    """Three photos with masks of random values, by name."""
    root, random, masks = tmp_path / "data", np.random.default_rng(0), {}
    for folder in ("photos", "masks"):
        (root / folder).mkdir(parents=True)
    for name in ("b", "a", "c"):
        masks[name] = random.choice([0, 10, 11, 12, 13], (8, 12)).astype(np.uint8)
        Image.fromarray(random.integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(root / f"photos/{name}.jpg")
        Image.fromarray(masks[name]).save(root / f"masks/{name}.png")
    (root / "train.txt").write_text("b\na\n")
    (root / "val.txt").write_text("c\n")
    return str(root), masks


def test_the_example_of_the_page_reads_what_it_says(module, farm):
    module("own_farm", CODE)
    root, masks = farm
    config = DataConfig(dataset="own_farm:Farm", root=root)
    dataset = open_dataset(config)
    assert config.name == "Farm"
    assert (dataset.ids("train"), dataset.ids("val")) == (["a", "b"], ["c"])
    assert dataset.check("train") == []
    assert dataset.catalogue.unseen == ["goat"]
    ids = {0: 255, 10: 0, 11: 1, 12: 2, 13: 3}
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        sample = dataset.read(split, name)
        np.testing.assert_array_equal(sample.labels, np.vectorize(ids.get)(masks[name]))
        assert decode_image(sample.image, name).shape == (8, 12, 3)


def test_shards_are_written_and_train_ids_that_no_class_has_are_refused(module, farm, tmp_path):
    root, masks = farm
    module("own_shards", CODE)
    config = DataConfig(dataset="own_shards:Farm", root=root)
    info = write_split(FileStore(tmp_path / "store"), config, "split/x", ("train", "val")).info
    train = np.concatenate([masks["a"], masks["b"]])
    counted = {name: facts["pixels"] for name, facts in info["counts"]["train"]["classes"].items()}
    assert counted == {"sky": (train == 10).sum(), "grass": (train == 11).sum(), "cow": (train == 12).sum(), "goat": 0}
    module("own_wrong", CODE.replace("table[10:14] = range(4)", "table[10:14] = range(1, 5)"))
    with pytest.raises(DataError, match=r"gives the train id 4 for val image c; expected positions in its list of 4"):
        write_split(FileStore(tmp_path / "other"), DataConfig(dataset="own_wrong:Farm", root=root), "x", ("val",))


def test_the_digest_changes_with_files_and_with_the_module(module, farm):
    root, _ = farm
    file = module("own_digest", CODE)
    config = DataConfig(dataset="own_digest:Farm", root=root)
    first = data_digest(config)
    assert data_digest(config) == first != data_digest(config, ["val"])
    file.write_text(f"{CODE}\n# read in another way\n")
    second = data_digest(config)
    (Path(root) / "photos/a.jpg").write_bytes((Path(root) / "photos/b.jpg").read_bytes() + b"x")
    assert len({first, second, data_digest(config)}) == 3
    folder = DataConfig(dataset="demo")
    assert data_digest(folder) == open_dataset(folder).digest()


def test_the_digest_is_that_of_the_module_that_is_named(module, farm):
    """Also where the class comes from elsewhere."""
    root, _ = farm
    module("own_elsewhere", CODE)
    file = module("own_named", "from own_elsewhere import Farm\n")
    config = DataConfig(dataset="own_named:Farm", root=root)
    first = data_digest(config)
    module("own_elsewhere", f"{CODE}\n# the digest of a data set must cover what else it reads\n")
    assert data_digest(config) == first
    file.write_text("from own_elsewhere import Farm\nFarm.unseen = []\n")
    assert data_digest(config) != first


BARE = """
from types import SimpleNamespace

import numpy as np

from cliptea.data.catalogue import Catalogue
from cliptea.data.sample import Sample, encode_png

IMAGE = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)


def Bare(config):
    return SimpleNamespace(
        catalogue=Catalogue(classes=["sky", "cow"], unseen=["cow"]),
        ids=lambda split: ["a"],
        check=lambda split: [],
        left_out=lambda splits: {},
        read=lambda split, name: Sample(encode_png(IMAGE), "png", np.zeros((6, 4), np.uint8)),
        digest=lambda splits=("train", "val"): "d",
    )
"""


def test_a_data_set_may_be_made_by_a_function_with_members_that_no_class_has(module, tmp_path):
    module("own_bare", BARE)
    info = write_split(FileStore(tmp_path), DataConfig(dataset="own_bare:Bare"), "x", ("train", "val")).info
    assert info["counts"]["val"]["classes"]["sky"] == {"pixels": 24, "images": 1}


def test_the_digest_changes_with_the_settings_that_the_data_set_is_called_with(module):
    module("own_settings", BARE)

    def digest(**given):
        return data_digest(DataConfig(dataset="own_settings:Bare", **given))

    assert digest() == digest(root="elsewhere", shard_mib=1, synonyms={"cow": ["calf"]})
    assert len({digest(), digest(seed=1), digest(train_list="train"), digest(unseen=["sky"])}) == 4


def test_a_module_without_a_file_has_no_source():
    with pytest.raises(ConfigError, match=r"the module sys of 'sys:Bare' has no source file"):
        source_of("sys:Bare")


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ("np.full((6, 4), 300)", r"int64 \(6, 4\)"),
        ("np.zeros((6, 4))", r"float64 \(6, 4\)"),
        ("np.zeros((4, 6), np.uint8)", r"uint8 \(4, 6\)"),
        ("np.zeros((6, 4, 1), np.uint8)", r"uint8 \(6, 4, 1\)"),
        ("[[0]]", "list"),
    ],
)
def test_labels_of_another_form_are_refused(labels, says, part, module, tmp_path):
    module("own_labels", BARE.replace("np.zeros((6, 4), np.uint8)", labels))
    says = rf"gives labels of the form {says} for the image a; expected a numpy array uint8 \(6, 4\)"
    with pytest.raises(DataError, match=says):
        write_split(FileStore(tmp_path), DataConfig(dataset="own_labels:Bare"), "x", (part,))


@pytest.mark.parametrize(
    ("catalogue", "says"),
    [
        ('Catalogue(classes=["cow", "cow"], unseen=["cow"])', "class names occur twice: cow"),
        (
            'Catalogue(classes=["sky", "cow"], unseen=["goat"])',
            "the catalogue of own_list:Bare names 'goat', which the data set does not have",
        ),
        ('Catalogue(classes=["sky"], unseen=[])', "0 of 1 classes are unseen"),
        ('{"sky": 0}', "own_list:Bare has a catalogue of type dict; expected a cliptea.data.catalogue.Catalogue"),
        ("1 / 0", "own_list:Bare cannot be created: ZeroDivisionError"),
        ("None", "own_list:Bare has no catalogue"),
    ],
)
def test_catalogues_made_by_hand_are_checked(catalogue, says, module):
    module("own_list", BARE.replace('Catalogue(classes=["sky", "cow"], unseen=["cow"])', catalogue))
    with pytest.raises(ConfigError, match=says):
        open_dataset(DataConfig(dataset="own_list:Bare"))


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("own_none:Farm", None, "cannot import the data set 'own_none:Farm': the module own_none does not exist"),
        ("own_a:Barn", "", "the data set own_a:Barn cannot be created: AttributeError: .*; expected a class that is"),
        ("own_b:Barn", "class Barn: pass", "own_b:Barn cannot be created: TypeError"),
        (
            "own_c:Barn",
            "class Barn:\n    def __init__(self, config): ...",
            "own_c:Barn has no catalogue; expected a class",
        ),
        ("own_d:voc12", "class voc12: ...", "own_d:voc12 has the name of a data set of cliptea; expected another name"),
        ("own_e:a.b", "", "cannot read the data set 'own_e:a.b'; expected package.module:Class"),
    ],
)
def test_what_is_no_data_set_is_refused(name, code, says, module):
    if code is not None:
        module(name.partition(":")[0], code)
    with pytest.raises(ConfigError, match=says):
        open_dataset(DataConfig(dataset=name))


def test_a_data_set_of_ones_own_needs_no_root():
    config = settings.load("smoke", ["data.dataset=somewhere:Else"])
    assert not [line for line in make_plan(config, {}).missing if "data.root" in line]
    assert config.data.name == "Else"
