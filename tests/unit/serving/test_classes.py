"""Free class names go through the text tower, where one is at hand; what they are worth is said."""

import pytest
import torch

from cliptea.errors import ConfigError, TeacherError
from cliptea.segment.segmenter import TeacherSource
from cliptea.serving.classes import choose_classes
from cliptea_pipeline.serving import split_names

DEMO = TeacherSource(weights="demo", model="none", templates="single", crop=32, demo="f" * 16)


class Tower:
    """A text tower that knows the model's own embeddings and gives each other name one of its own."""

    def __init__(self, model, dim=16):
        self.dim = dim
        self.rows = dict(zip(model.description.classes, model.text_ND, strict=True))

    def __call__(self, _, wanted, templates):
        assert templates == "single"
        made = {name: torch.nn.functional.one_hot(torch.tensor(len(name)), 16).float() for name in wanted}
        return torch.stack([self.rows.get(name, made[name]) for name in wanted])


@pytest.fixture
def tower(model, monkeypatch, tmp_path):
    model.description = model.description.model_copy(update={"teacher": DEMO})
    tower = Tower(model)
    monkeypatch.setenv("CLIPTEA_STORE", tmp_path.as_uri())
    monkeypatch.setattr(names, "load_teacher", lambda *_: tower)
    monkeypatch.setattr(names, "text_features", tower)
    return tower


def test_names_are_split():
    assert split_names("cat, dog,my sofa,") == ["cat", "dog", "my sofa"]
    for text, words in (
        ("cat,dog,cat", "twice: cat"),
        (" , ", "0 class names"),
        (",".join(map(str, range(256))), "256"),
    ):
        with pytest.raises(ConfigError, match=words):
            split_names(text)


def test_without_free_names_no_tower_is_loaded(model, monkeypatch):
    monkeypatch.setattr(names, "load_teacher", None)
    assert choose_classes(model, None, None).names == ["sky", "grass", "cow", "zebra"]
    assert choose_classes(model, ["zebra"], None).gamma_N.tolist() == pytest.approx([0.02])


def test_free_names_get_the_towers_embeddings_and_gamma_0(model, tower):
    classes = choose_classes(model, ["zebra", "sofa"], None)
    assert torch.equal(classes.text_ND[0], model.text_ND[3])
    assert torch.equal(classes.text_ND[1], tower(None, ["sofa"], "single")[0])
    assert classes.gamma_N.tolist() == [0, 0]


def test_words_that_the_demo_has_never_read_are_warned_about(model, tower, capsys):
    choose_classes(model, ["Wood", "my sofa"], None)
    assert "warning: the demo's text tower has never read 'my', 'sofa': results for these mean nothing" in (
        capsys.readouterr().err
    )


def test_a_tower_of_another_clip_is_refused_or_warned_about(model, tower, capsys):
    tower.rows = dict(zip(tower.rows, torch.eye(16), strict=False))
    choose_classes(model, ["sofa"], "other.pt")
    assert "not the one that the model was trained with" in capsys.readouterr().err
    tower.dim = 512
    with pytest.raises(ConfigError, match="gives 512 features and the model has 16"):
        choose_classes(model, ["sofa"], "other.pt")


def test_without_a_tower_the_unknown_names_and_the_option_are_named(model, monkeypatch):
    with pytest.raises(ConfigError, match=r"'my sofa', 'dog', and no text tower.*does not say.*--text-weights"):
        choose_classes(model, ["cow", "my sofa", "dog"], None)

    def missing(*_):
        raise TeacherError("no such file x.pt")

    monkeypatch.setattr(names, "load_teacher", missing)
    with pytest.raises(ConfigError, match=r"no such file x\.pt"):
        choose_classes(model, ["dog"], "x.pt")
