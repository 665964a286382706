"""A name that a user types is found in any Unicode form: "é" is one character (NFC) or two (NFD)."""

import unicodedata

import pytest

from cliptea.config import DataConfig
from cliptea.data.catalogue import make_catalogue
from cliptea.data.records import chosen_images
from cliptea.errors import ConfigError
from cliptea.names import as_known, composed, visible
from cliptea.segment.segmenter import Segmenter
from cliptea.serving.classes import choose_classes
from cliptea.settings import load
from cliptea.steps.resolve import _check_figures

NFC, NFD = "caf\u00e9", "cafe\u0301"
FORMS = [(NFC, NFD), (NFD, NFC)]


def test_the_two_forms_of_this_test_differ():
    assert NFC != NFD
    assert unicodedata.normalize("NFC", NFD) == composed(NFD) == composed(NFC) == NFC


@pytest.mark.parametrize(("known", "typed"), FORMS)
def test_a_typed_name_becomes_the_known_one(known, typed):
    assert as_known([typed, "sky", "nothing"], ["sky", known]) == [known, "sky", "nothing"]
    assert as_known([NFC, NFD], [NFD, NFC]) == [NFC, NFD]  # both exist, so each is itself


@pytest.mark.parametrize(("known", "typed"), FORMS)
def test_unseen_classes_are_found(known, typed):
    assert make_catalogue(["sky", known], [typed]).unseen == [known]
    assert make_catalogue(["sky", known], [typed, known]).unseen == [known]
    with pytest.raises(ConfigError, match="'caff\u00e9'"):
        make_catalogue(["sky", known], ["caff\u00e9"])


@pytest.mark.parametrize(("known", "typed"), FORMS)
def test_classes_of_a_model_are_found(model, known, typed):
    renamed = model.description.model_copy(update={"classes": ["sky", "grass", "cow", known], "unseen": [known]})
    model = Segmenter(model.student, renamed, model.text_ND)
    for chosen in (model.known([typed]), choose_classes(model, [typed], None)):
        assert chosen.names == [known]
        assert chosen.text_ND.equal(model.text_ND[3:])
        assert chosen.gamma_N.tolist() == pytest.approx([0.02])


@pytest.mark.parametrize(("known", "typed"), FORMS)
def test_images_for_figures_are_found(known, typed):
    config = load("demo", [f"evaluation.figures=[a, {typed}]"])
    _check_figures(config, [["a", "b"], [known]])
    assert chosen_images(["a", "b", known], config.evaluation.figures) == ["a", known]
    with pytest.raises(ConfigError, match="images that do not exist: 'caff\u00e9'"):
        _check_figures(load("demo", ["evaluation.figures=[caff\u00e9]"]), [["a", "b"], [known]])


def test_a_message_tells_the_forms_apart():
    assert visible(NFC) == f"'{NFC}'"
    assert visible(NFD) == r"'cafe\u0301'"
    assert visible("\ufb01sh") == "'\\ufb01sh'"
    assert visible("a ") == "'a␣'"
    assert DataConfig(unseen=[NFD]).unseen == [NFD]  # settings are taken as typed
