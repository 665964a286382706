"""What the text features of a class list depend on."""

import hashlib
from contextlib import nullcontext

import pytest

from cliptea import settings
from cliptea.data.catalogue import Catalogue
from cliptea.errors import StorageError
from cliptea.manifest import Manifest, Output, fingerprint
from cliptea.steps import teacher
from cliptea.steps.planned import _promised
from cliptea.steps.split import Splits
from cliptea.steps.teacher import text_sets
from cliptea.storage import FileStore
from cliptea.teacher.outputs import TextSet, text_output

PLAIN = TextSet(classes=["person", "dog"], templates="single", text_features=None)


def output(**changes):
    return text_output(settings.load("voc12"), PLAIN.model_copy(update=changes)).fingerprint


def test_prompts_and_names_count_and_plain_sets_keep_their_fingerprint():
    config = settings.load("voc12")
    before = {"classes": ["person", "dog"], "templates": "single", "text_features": None}
    assert output() == fingerprint(
        "text", prompt=before, file=[], model=config.teacher.model, weights=[config.teacher.source.text, []]
    )
    changed = [
        output(templates="multi"),
        output(templates=["a photo of a {}"]),
        output(templates=["a photo of a {}."]),
        output(synonyms={"person": ["man"]}),
        output(synonyms={"person": ["man", "woman"]}),
        output(unseen=["dog"]),
    ]
    assert len({output(), *changed}) == 7


def test_each_set_has_its_own_prompts_and_names():
    config = settings.load(
        "voc12",
        [
            "data.synonyms.person=[man, woman]",
            "evaluation.sets.other.templates=['{} seen']",
            "evaluation.sets.other.synonyms.dog=[puppy]",
        ],
    )
    own, other = (
        _promised(Output("split", name), Catalogue(classes=names, unseen=["dog"]))
        for name, names in (("a", ["person", "dog"]), ("b", ["dog", "person"]))
    )
    sets = text_sets(config, Splits(own=own, others={"other": other}))
    assert sets["voc12"].names == ["man", "woman", "dog"]
    assert (sets["other"].names, sets["other"].templates) == (["puppy", "person"], ["{} seen"])
    assert sets["voc12"].classes == ["person", "dog"]
    assert (sets["voc12"].unseen, sets["other"].unseen) == (["dog"], [])  # students are trained with the first alone


def test_the_own_name_alone_is_no_other_name():
    split = _promised(Output("split", "a"), Catalogue(classes=["person", "dog"], unseen=["dog"]))
    plain, same, both = (
        text_sets(settings.load("voc12", given), Splits(own=split, others={}))["voc12"]
        for given in ([], ["data.synonyms.person=[person]"], ["data.synonyms.person=[person, man]"])
    )
    config = settings.load("voc12")
    assert text_output(config, same) == text_output(config, plain) != text_output(config, both)


def test_outputs_of_an_earlier_clip_of_the_demo_are_not_mixed_with_new_ones(tmp_path, monkeypatch):
    config, store = settings.load("demo"), FileStore(tmp_path / "store")
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(teacher, "teacher_weights", lambda store, config: str(tmp_path))
    now = hashlib.sha256(b"weights").hexdigest()
    for kind, sha256, fits in (("tokens", now, True), ("tokens", "0" * 64, False), ("text", "0" * 64, False)):
        made = Manifest(kind=kind, fingerprint="f", objects={}, info={"clip_sha256": sha256})
        plain = Manifest(kind="regions", fingerprint="f", objects={}, info={})
        with nullcontext() if fits else pytest.raises(StorageError, match="is from an earlier CLIP of the demo"):
            teacher._require_its_clip(store, config, [plain, made])
