"""What the text features of a class list depend on."""

from cliptea import settings
from cliptea.data.catalogue import Catalogue
from cliptea.manifest import Output, fingerprint
from cliptea.steps.planned import _promised
from cliptea.steps.resolve import _counting
from cliptea.steps.split import Splits
from cliptea.steps.teacher import text_sets
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
    ]
    assert len({output(), *changed}) == 6


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


def test_synonyms_count_in_the_fingerprint_of_a_run_and_their_absence_does_not():
    plain = settings.load("voc12", ["evaluation.sets.other.root=x"])
    counted = _counting(plain)
    assert "synonyms" not in counted["data"]
    assert "synonyms" not in counted["evaluation"]["sets"]["other"]
    changed = [
        _counting(settings.load("voc12", ["evaluation.sets.other.root=x", setting]))
        for setting in ("data.synonyms.dog=[puppy]", "evaluation.sets.other.synonyms.dog=[puppy]")
    ]
    assert counted not in changed
    assert changed[0] != changed[1]
