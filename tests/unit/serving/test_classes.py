"""Free class names go through the text tower, where one is at hand; what they are worth is said."""

import json
import subprocess
import sys

import open_clip
import pytest
import safetensors.torch
import torch

from cliptea import progress
from cliptea.errors import ConfigError
from cliptea.manifest import Contents, Output, publish, put_object
from cliptea.segment.model_files import TeacherSource
from cliptea.serving.classes import choose_classes
from cliptea.storage import open_store
from cliptea.teacher.clip import load_teacher
from cliptea.teacher.text import text_features
from cliptea_pipeline.serving_cli import split_names

DEMO = TeacherSource(weights="demo", model="none", templates="single", crop=32, demo="f" * 16)


def save_clip(folder, seed, dim=16):
    """A small CLIP with random weights, in open_clip's folder layout."""
    sizes = {
        "embed_dim": dim,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    safetensors.torch.save_file(open_clip.CLIP(**sizes).state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": sizes}))
    return folder


@pytest.fixture
def tower(model, monkeypatch, tmp_path):
    """The text tower that the model learned from, where a demo's run keeps it."""
    folder = save_clip(tmp_path / "store" / "demo-teacher" / DEMO.demo, 0)
    monkeypatch.setenv("CLIPTEA_STORE", (tmp_path / "store").as_uri())
    store, output = open_store(), Output("demo-teacher", DEMO.demo)
    objects = {
        file.name: put_object(store, f"{output.prefix}/{file.name}", file.read_bytes()) for file in folder.iterdir()
    }
    publish(store, output, Contents(objects, {}))
    tower = load_teacher(str(folder), DEMO.model, DEMO.crop)
    model.description = model.description.model_copy(update={"teacher": DEMO})
    model.text_ND = text_features(tower, model.description.classes, DEMO.templates)
    return tower


def test_a_damaged_tower_in_the_store_is_refused(model, tower, tmp_path):
    file = tmp_path / "store" / "demo-teacher" / DEMO.demo / "open_clip_model.safetensors"
    wrong = bytearray(file.read_bytes())
    wrong[-2] ^= 1
    file.write_bytes(wrong)
    with pytest.raises(ConfigError, match="is damaged"):
        choose_classes(model, ["dog"], None)


def test_names_are_split():
    assert split_names("cat, dog,my sofa,", "--classes") == ["cat", "dog", "my sofa"]
    assert split_names("'red, white'", "--classes") == ["'red", "white'"]  # only a list has quotes
    assert split_names(' [cat, "red, white", \'no\', 010, "a \\u00e9"]', "--names") == [
        "cat",
        "red, white",
        "no",
        "010",
        "a \u00e9",
    ]
    for text, words in (
        ("cat,dog,cat", "twice: cat"),
        (" , ", "0 class names"),
        ("[]", "0 class names"),
        ("[cat, [dog]]", r"--classes: it is not a list of names; expected a list such as \[cat, "),
        ("[cat", "cannot read --classes: "),
        ("[cat] dog", "cannot read --classes: "),
        (",".join(map(str, range(256))), "256"),
    ):
        with pytest.raises(ConfigError, match=words):
            split_names(text, "--classes")


def test_without_free_names_no_tower_is_needed(model):
    absent = DEMO.model_copy(update={"weights": "/nowhere"})
    model.description = model.description.model_copy(update={"teacher": absent})
    assert choose_classes(model, None, None).names == ["sky", "grass", "cow", "zebra"]
    assert choose_classes(model, ["zebra"], None).gamma_N.tolist() == pytest.approx([0.02])


def test_free_names_get_the_towers_embeddings_and_gamma_0(model, tower):
    classes = choose_classes(model, ["zebra", "sofa"], None)
    assert torch.equal(classes.text_ND[0], model.text_ND[3])
    torch.testing.assert_close(classes.text_ND[1], text_features(tower, ["sofa"], "single")[0])
    assert classes.gamma_N.tolist() == [0, 0]


def test_free_names_are_put_into_the_templates_of_the_model(model, tower):
    own = DEMO.model_copy(update={"templates": ["{} from above", "a map of {}."]})
    model.description = model.description.model_copy(update={"teacher": own})
    model.text_ND = text_features(tower, model.description.classes, own.templates)
    rows_2D = torch.nn.functional.normalize(tower.encode_text(["sofa from above", "a map of sofa."]), dim=1)
    classes = choose_classes(model, ["sofa"], None)
    torch.testing.assert_close(classes.text_ND[0].cpu(), torch.nn.functional.normalize(rows_2D.mean(0), dim=0).cpu())


def test_a_class_with_other_names_than_in_training_is_encoded_anew(model, tower, monkeypatch):
    said = []
    monkeypatch.setattr(progress, "warn", said.append)
    trained = DEMO.model_copy(update={"synonyms": {"cow": ["grass cow", "wood"]}})
    model.description = model.description.model_copy(update={"teacher": trained})
    model.text_ND = text_features(tower, model.description.classes, "single", trained.synonyms)
    names = ["sky", "cow", "zebra"]
    assert torch.equal(choose_classes(model, names, None, trained.synonyms).text_ND, model.text_ND[[0, 2, 3]])
    found = choose_classes(model, names, None, {"cow": ["wood"], "sky": ["sky"]}).text_ND
    assert torch.equal(found[[0, 2]], model.text_ND[[0, 3]])
    torch.testing.assert_close(found[1], text_features(tower, ["wood"], "single")[0])
    assert said == []  # the tower is the model's own


def test_words_that_the_demo_has_never_read_are_warned_about(model, tower, capsys):
    choose_classes(model, ["Wood", "my sofa"], None)
    (told,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert "'my', 'sofa'" in told
    assert "wood" not in told.lower()


def test_a_tower_of_another_clip_is_refused_or_warned_about(model, tower, tmp_path, capsys):
    choose_classes(model, ["wood"], None)
    assert "cosine" not in capsys.readouterr().err
    # A random CLIP's embeddings are alike, so what the model learned from is turned the other way.
    model.text_ND = -model.text_ND
    choose_classes(model, ["sofa"], str(save_clip(tmp_path / "other", 1)))
    assert "cosine" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"512 features.*16"):
        choose_classes(model, ["sofa"], str(save_clip(tmp_path / "wide", 1, dim=512)))


def test_without_a_tower_the_unknown_names_and_the_option_are_named(model, tmp_path):
    with pytest.raises(ConfigError, match=r"'my sofa', 'dog'.*--text-weights"):
        choose_classes(model, ["cow", "my sofa", "dog"], None)
    with pytest.raises(ConfigError, match=r"'dog'.*x\.pt.*--text-weights"):
        choose_classes(model, ["dog"], str(tmp_path / "x.pt"))


def test_predicting_with_the_own_classes_imports_nothing_heavy_but_torch():
    code = (
        "import sys, cliptea.serving.classes, cliptea.serving.predict\n"
        "print({'open_clip', 'torchvision', 'torch._dynamo', 'mlflow', 'pandas'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"
