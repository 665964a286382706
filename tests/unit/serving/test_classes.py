"""Free class names go through the text tower, where one is at hand; what they are worth is said."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch

from cliptea import progress
from cliptea.errors import ConfigError, TeacherError
from cliptea.manifest import Contents, Output, publish, put_object
from cliptea.segment.image_logits import ImageLogits
from cliptea.segment.masks import make_mask
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


def test_other_weights_than_in_training_are_refused(model, tmp_path):
    folder = save_clip(tmp_path / "clip", 0)
    file = folder / "open_clip_model.safetensors"
    own = {"weights": str(folder), "demo": None, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    model.description = model.description.model_copy(update={"teacher": DEMO.model_copy(update=own)})
    model.text_ND = text_features(load_teacher(str(folder), "none", 32), model.description.classes, "single")
    assert choose_classes(model, ["dog"], None).names == ["dog"]
    wrong = bytearray(file.read_bytes())
    wrong[-2] ^= 1
    file.write_bytes(wrong)
    with pytest.raises(ConfigError, match=r"'dog'.*clip has changed since training.*--text-weights"):
        choose_classes(model, ["dog"], None)
    assert choose_classes(model, ["dog"], str(folder)).names == ["dog"]  # as the user wants
    (tmp_path / "clip.pt").write_bytes(b"weights")
    one = own | {"weights": str(tmp_path / "clip.pt")}
    model.description = model.description.model_copy(update={"teacher": DEMO.model_copy(update=one)})
    with pytest.raises(ConfigError, match=r"clip\.pt has changed since training"):
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
        ('[cat, "red, white"] #2, dog]', "cannot read --classes: what follows # would be a comment"),
        (",".join(map(str, range(256))), "256"),
        ("cat\ndog\nsky", r"the class name 'cat\\ndog\\nsky' has control characters"),
        ("cat, \x1b[31mdog", "has control characters"),
        ('["a\\nb"]', "has control characters"),
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


def test_names_that_the_tower_cannot_tell_apart_are_refused(model, tower):
    long = "a very " * 20  # the tower reads 20 tokens
    for names in (["caf\u00e9", "caf\u00c3\u00a9"], ["sky", f"{long}red car", f"{long}blue car"]):
        with pytest.raises(TeacherError, match="have the same text embedding"):
            choose_classes(model, names, None)
    assert choose_classes(model, ["sky", "sofa", "my sofa"], None).names == ["sky", "sofa", "my sofa"]


def test_a_mask_has_at_most_255_classes(model):
    names = [f"x{number}" for number in range(256)]
    with pytest.raises(
        ConfigError, match="256 class names are given; expected at most 255, because a mask has ids 0 to 254"
    ):
        choose_classes(model, names, None)
    for one, other in (("sofa", "sofa"), ("sofa 1", "sofa1"), ("sky", "Sky")):
        with pytest.raises(ConfigError, match=r"occur twice: sofa|have the same text embedding"):
            choose_classes(model, [one, other], None)
    with pytest.raises(ConfigError, match="class names occur twice: sky"):
        model.known(["sky"] * 256)
    logits_NHW = torch.randn(255, 32, 48)
    logits = ImageLogits(logits_NHW, (32, 48), (32, 48), (32, 48))
    assert np.array_equal(make_mask(logits, torch.zeros(255)), logits_NHW.numpy().argmax(0))


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


@pytest.mark.parametrize(
    "address", ["https://h/x.pt?X-Amz-Signature=hunter2", "https://user:hunter2@h/x.pt", "gs://b/x.pt"]
)
def test_weights_at_an_address_that_cannot_be_read_are_refused_as_that(model, address):
    with pytest.raises(ConfigError, match="is no address that cliptea can read") as caught:
        choose_classes(model, ["dog"], address)
    assert address[:6] in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_predicting_with_the_own_classes_imports_nothing_heavy_but_torch():
    code = (
        "import sys, cliptea.serving.classes, cliptea.serving.predict\n"
        "print({'open_clip', 'torchvision', 'torch._dynamo', 'mlflow', 'pandas'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"
