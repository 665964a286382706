"""Which of open_clip's architectures can be the teacher, and what is refused before any work starts."""

import json
import re
import shutil

import open_clip
import pytest

from cliptea import progress, settings
from cliptea.config import ClusteringConfig
from cliptea.errors import ConfigError, TeacherError
from cliptea.plan import make_plan
from cliptea.steps import preflight
from cliptea.teacher import clip, families
from cliptea.teacher.clip import load_teacher
from cliptea.teacher.families import patch_size, require_family
from cliptea.teacher.hub import normalisations

REFUSED = {
    r"RN\d.*": "a ResNet",
    r"coca_.*": "a CoCa",
    r"(convnext|swin)_.*": r"timm's (convnext|swin)_",
    r"MobileCLIP2?-S\d": r"timm's fastvit_mci",
    r"vit_(medium|relpos_medium)_.*": "timm's vit_",
    r"(nllb-clip|mt5|roberta|xlm-roberta).*": "text tower",
}
HUGGING_FACE = r".*(SigLIP|CLIPA|worldwide).*"  # their tokenizers


def refusal(name, clusterings=()):
    try:
        require_family(name, open_clip.get_model_config(name), clusterings)
    except TeacherError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", open_clip.list_models())
def test_every_architecture_is_a_teacher_or_is_refused_by_name(name, monkeypatch):
    monkeypatch.setattr(families, "TOKENIZER", "json")  # as if transformers were installed
    (wanted, *more) = [words for names, words in REFUSED.items() if re.fullmatch(names, name)] or [""]
    assert not more
    if not wanted:
        assert refusal(name) == ""
        return
    assert name in refusal(name)
    assert "\n" not in refusal(name)
    assert re.search(wanted, refusal(name))


@pytest.mark.parametrize("name", open_clip.list_models())
def test_tokenizers_of_hugging_face_need_their_package(name, monkeypatch):
    monkeypatch.setattr(families, "TOKENIZER", "a_package_that_is_not_there")
    if any(re.fullmatch(names, name) for names in REFUSED):
        return
    needed = "pip install a_package_that_is_not_there" in refusal(name)
    assert needed is bool(re.fullmatch(HUGGING_FACE, name))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("ViT-L-14", 14),
        ("ViT-B-32-SigLIP2-256", 32),
        ("ViT-SO400M-14-SigLIP", 14),
        ("EVA02-L-14", 14),
        ("ViTamin-B", 16),
    ],
)
def test_the_patch_size_is_known_from_the_description(name, size):
    assert patch_size(open_clip.get_model_config(name)) == size


@pytest.mark.parametrize(
    ("name", "clustering", "words"),
    [
        ("ViT-B-16", {"tokens": "value"}, ""),
        ("ViT-B-16", {"region_tokens": "attention"}, ""),
        ("PE-Core-B-16", {"tokens": "dense", "region_tokens": "crop"}, ""),
        ("PE-Core-B-16", {"tokens": "value"}, "tokens=value does not apply to PE-Core-B-16"),
        ("EVA02-B-16", {"tokens": "key"}, "tokens=key does not apply to EVA02-B-16"),
        ("PE-Core-B-16", {"region_tokens": "attention"}, "region_tokens=attention does not apply to PE-Core-B-16"),
    ],
)
def test_settings_that_look_into_the_last_block_need_open_clips_own(name, clustering, words):
    said = refusal(name, [ClusteringConfig(**clustering)])
    assert words in said
    assert bool(words) is bool(said)


def test_a_mean_has_values_but_no_cls_token_for_regions(monkeypatch):
    monkeypatch.setattr(families, "TOKENIZER", "json")
    assert refusal("ViT-L-14-CLIPA", [ClusteringConfig(tokens="value")]) == ""
    assert "region_tokens=attention" in refusal("ViT-L-14-CLIPA", [ClusteringConfig(region_tokens="attention")])


@pytest.mark.parametrize("start", [preflight.check, lambda config: make_plan(config, {})])
def test_a_run_and_its_plan_refuse_a_teacher_before_any_work(start):
    with pytest.raises(TeacherError, match=r"RN50 does not provide.*docs/models\.md"):
        start(settings.load("demo", ["teacher.weights=openai", "teacher.model=RN50"]))
    overrides = ["teacher.weights=meta", "teacher.model=PE-Core-B-16", "variants=[beyond]"]
    with pytest.raises(TeacherError, match="does not apply to PE-Core-B-16"):
        start(settings.load("demo", overrides))


def test_a_crop_that_the_patches_do_not_fill_is_refused_before_any_work():
    given = ["teacher.weights=openai", "teacher.model=ViT-L-14", "teacher.crop=512"]
    with pytest.raises(ConfigError, match=r"teacher\.crop=512 .* 14 pixels; expected such as 504"):
        preflight.check(settings.load("demo", given))
    preflight.check(settings.load("demo", [*given[:2], "teacher.crop=448"]))


def test_a_folder_of_weights_is_refused_before_any_work(tmp_path):
    described = {"embed_dim": 8, "vision_cfg": {"layers": [1, 1, 1, 1]}, "text_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": described}))
    with pytest.raises(TeacherError, match="ResNet") as caught:
        preflight.check(settings.load("demo", [f"teacher.weights={tmp_path}"]))
    assert str(tmp_path) in str(caught.value)


def test_weights_in_a_file_have_the_normalisation_of_their_architecture():
    half, openai = (0.5, 0.5, 0.5), open_clip.OPENAI_DATASET_MEAN
    assert normalisations("ViT-B-16-SigLIP") == normalisations("PE-Core-B-16") == [(half, half)]
    assert normalisations("MobileCLIP-B") == [((0, 0, 0), (1, 1, 1))]
    assert [mean for mean, _ in normalisations("ViT-B-16")] == [openai]
    assert [mean for mean, _ in normalisations("ViT-L-14")] == [openai, half]  # laion2b_s32b_b82k differs
    assert normalisations("ViT-S-16") == []


def test_the_normalisation_of_the_architecture_is_used_for_a_file(folder, small_architecture, monkeypatch):
    asked = []
    monkeypatch.setattr(clip, "normalisations", lambda model: asked.append(model) or [((0.5,) * 3, (0.25,) * 3)])
    teacher = load_teacher(str(folder / "open_clip_model.safetensors"), small_architecture, 32)
    assert asked == [small_architecture]
    assert teacher.mean.flatten().tolist() == [0.5] * 3
    assert teacher.std.flatten().tolist() == [0.25] * 3


def test_an_architecture_with_two_normalisations_is_a_warning(folder, small_architecture, monkeypatch):
    warned, openai = [], (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    monkeypatch.setattr(progress, "warn", warned.append)
    monkeypatch.setattr(clip, "normalisations", lambda model: [openai, ((0.5,) * 3, (0.5,) * 3)])
    file = str(folder / "open_clip_model.safetensors")
    teacher = load_teacher(file, small_architecture, 32)
    assert teacher.mean.flatten().tolist() == pytest.approx(openai[0])
    (said,) = warned
    assert small_architecture in said
    assert file in said
    assert "than the mean 0.4815, 0.4578, 0.4082, which" in said
    monkeypatch.setattr(clip, "normalisations", lambda model: [((0.5,) * 3, (0.5,) * 3), openai])
    assert load_teacher(file, small_architecture, 32).mean.flatten().tolist() == [0.5] * 3
    assert "than the mean 0.5, 0.5, 0.5, which" in warned[1]
    monkeypatch.setattr(clip, "is_openai", lambda state: True)
    monkeypatch.setattr(clip, "_require_quick_gelu", lambda *_: None)
    assert load_teacher(file, small_architecture, 32).mean.flatten().tolist() == pytest.approx(openai[0])
    assert len(warned) == 2


@pytest.mark.parametrize("option", ["trust_remote_code", "code_revision", "use_fast"])
def test_options_of_a_tokenizer_that_could_run_code_are_refused(option, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(families, "TOKENIZER", "json")
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda *_: pytest.fail("the tokenizer is read"))
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    described = json.loads((tmp_path / "open_clip_config.json").read_text())
    text = {"hf_tokenizer_name": "x", "tokenizer_kwargs": {option: True, "clean": "lower"}}
    described["model_cfg"]["text_cfg"] |= text
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    for start in (
        lambda: load_teacher(str(tmp_path), "unused", 32),
        lambda: preflight.check(settings.load("demo", [f"teacher.weights={tmp_path}"])),
    ):
        with pytest.raises(TeacherError, match=f"has the tokenizer_kwargs {option}, which .*; expected only clean"):
            start()


@pytest.mark.parametrize("name", ["/data/tokenizers/bert", "./tokenizer", "a/b/c"])
def test_the_tokenizer_of_a_folder_is_in_the_folder_whatever_its_name(name, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(families, "TOKENIZER", "json")
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda schema: schema)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    described = json.loads((tmp_path / "open_clip_config.json").read_text())
    described["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = name
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    assert load_teacher(str(tmp_path), "unused", 32).tokenizer == f"local-dir:{tmp_path}"


def test_a_tokenizer_that_is_not_there_is_one_line(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(families, "TOKENIZER", "json")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    described = json.loads((tmp_path / "open_clip_config.json").read_text())
    described["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "nobody/nothing"
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    with pytest.raises(TeacherError, match=r"the tokenizer of .* cannot be loaded") as caught:
        load_teacher(str(tmp_path), "unused", 32)
    assert "\n" not in str(caught.value)
