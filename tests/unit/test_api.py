"""The Python interface does what the commands do, and leaves no traces in the environment."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from cliptea import settings
from cliptea.errors import ClipteaError, ConfigError, DataError, StorageError
from cliptea.files import sums
from cliptea.plan import make_plan
from cliptea_pipeline import api, local, submit
from cliptea_pipeline.cli import app
from cliptea_pipeline.workdir import Workdir

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
ROW = {
    "variant": "full", "group": "table3", "backbone": "demo_fpn", "dataset": "demo", "seed": 0, "iterations": 8,
    "gamma": 0.0, "pAcc": 0.5, "miou_seen": 0.25, "miou_unseen": None, "hiou": None, "per_class": {"sky": 0.5},
    "training_images_per_second": 10.0, "model_uri": "runs:/1/model", "mlflow_run_id": "1",
    "heldout_miou_seen": None, "inference": None, "trial": None,
}  # fmt: skip


@pytest.mark.parametrize("classes", [None, ["zebra", "sky"]])
def test_a_mask_is_that_of_predict(classes, model_folder, tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "photo.png")
    named = ["--classes", ", ".join(classes)] if classes else []
    arguments = ["predict", str(tmp_path / "photo.png"), "--model", str(model_folder), "-o", str(tmp_path / "out")]
    assert CliRunner().invoke(app, [*arguments, *named]).exit_code == 0
    with Image.open(tmp_path / "out/masks/photo.png") as mask:
        expected = np.array(mask)
    model = api.open_model(model_folder)
    for image in (IMAGE, tmp_path / "photo.png", str(tmp_path / "photo.png")):
        segmented = model.segment(image, classes)
        assert segmented.classes == (classes or model.classes)
        assert segmented.mask.dtype == np.uint8
        np.testing.assert_array_equal(segmented.mask, expected)
    assert (model.classes, model.unseen) == (["sky", "grass", "cow", "zebra"], ["zebra"])


@pytest.mark.parametrize(
    ("image", "classes", "error", "text"),
    [
        (
            IMAGE[..., 0],
            None,
            ConfigError,
            r"the image is ndarray with shape \(40, 60\) and type uint8; expected a file",
        ),
        (IMAGE / 255, None, ConfigError, r"shape \(40, 60, 3\) and type float64"),
        (IMAGE[:0], None, ConfigError, r"shape \(0, 60, 3\)"),
        (None, None, ConfigError, "the image is NoneType"),
        ("missing.png", None, DataError, r"cannot read missing\.png: it is missing"),
        (IMAGE, "sky", ConfigError, "classes is the text 'sky'; expected a list of names"),
        (IMAGE, [], ConfigError, "no class names are given"),
        (IMAGE, ["sky", "sky"], ConfigError, "class names occur twice: sky"),
        (IMAGE, ["sky\ngrass"], ConfigError, r"the class name 'sky\\ngrass' has control characters"),
    ],
)
def test_bad_input_is_refused_in_one_line(image, classes, error, text, model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=text) as refused:
        api.open_model(model_folder).segment(image, classes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("workdir", ["", "s3://bucket/work"])
@pytest.mark.parametrize(
    "call", [api.run, api.read_results, lambda workdir: api.open_model("models:/a@champion", workdir)]
)
def test_what_is_no_local_folder_is_refused(call, workdir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"workdir .*expected a path on this machine"):
        call(workdir=workdir)
    assert list(tmp_path.iterdir()) == []


def test_the_environment_stays_as_it_was(model_folder, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "one/store").mkdir(parents=True)
    before = dict(os.environ)
    api.open_model(model_folder, workdir=tmp_path / "one").segment(IMAGE)
    with pytest.raises(StorageError, match=r"database .* does not exist"):
        api.open_model("models:/a@champion", workdir=tmp_path / "one")
    assert dict(os.environ) == before


VALUES = st.fixed_dictionaries(
    {},
    optional={
        "train.iterations": st.integers(1, 10**6),
        "train.lr": st.floats(1e-8, 1.0),
        "train.photometric": st.booleans(),
        "train.clip_norm": st.none() | st.floats(0.1, 10.0),
        "data.root": st.none() | st.sampled_from(["a folder", "é, ü", "1e3", "true"]),
        "data.unseen": st.lists(st.sampled_from(["sky", "red, white", "no", '"quoted"']), min_size=1, unique=True),
        "teacher.base_scale": st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
        "train.lr_scale": st.dictionaries(st.sampled_from(["swin_t", "demo_fpn"]), st.floats(0.1, 10.0), min_size=1),
    },
)


@given(VALUES)
def test_settings_keep_their_values_and_types(values):
    config = api.load_config("smoke", values).model_dump()
    usual = settings.load("smoke").model_dump()
    for key, value in values.items():
        section, name = key.split(".")
        assert config[section][name] == value
        assert type(config[section][name]) is type(value)
        config[section][name] = usual[section][name]
    assert config == usual


def test_a_wrong_setting_is_refused_as_on_the_command_line():
    with pytest.raises(ConfigError) as refused:
        api.load_config("smoke", {"train.iteration": 3})
    ended = CliRunner().invoke(app, ["config", "--preset", "smoke", "--set", "train.iteration=3"])
    assert ended.stderr == f"error: {refused.value}\n"
    printed = CliRunner().invoke(app, ["config", "--preset", "smoke", "--set", "seeds=3"]).stdout
    assert yaml.safe_load(printed) == api.load_config("smoke", {"seeds": 3}).model_dump(mode="json")


def test_paths_are_taken_and_what_no_setting_can_hold_is_refused():
    for root in (Path("a folder"), Path("010"), Path("[x]")):
        assert api.load_config("smoke", {"data.root": root}).data.root == str(root)
    for value in (object(), {1, 2}, [np.float32(1)]):
        with pytest.raises(ConfigError, match=rf"^the setting data.root is given as {type(value).__name__}, or holds"):
            api.load_config("smoke", {"data.root": value})


def test_a_preset_file_is_read_as_by_the_command_line(tmp_path):
    (tmp_path / "mine.yaml").write_text("preset: smoke\nseeds: 2\n")
    config = api.load_config(file=tmp_path / "mine.yaml", overrides={"train.iterations": 3.0})
    assert (config.preset, config.seeds, config.train.iterations) == ("mine.yaml", 2, 3)
    with pytest.raises(ConfigError, match="--preset and --config are both given"):
        api.load_config("smoke", file=tmp_path / "mine.yaml")


def test_a_plan_is_that_of_the_command():
    config = api.load_config("voc12", {"teacher.weights": "ViT-B-16.pt"})
    assert api.plan(config, {"teacher": 100.0}) == make_plan(config, {"teacher": 100.0})
    assert api.plan(config).teacher_gpu_hours is None


@pytest.mark.parametrize(
    ("name", "rate", "says"),
    [
        ("segfromer_b0", 40.0, "the throughput of segfromer_b0 has no effect, .* perhaps segformer_b0 is meant"),
        ("swin_b", 40.0, "the throughput of swin_b has no effect, .*; expected a throughput of teacher, segformer_b0"),
        ("segformer_b0", 0, "the throughput of segformer_b0 is 0.0"),
        ("segformer_b0", float("nan"), "the throughput of segformer_b0 is nan"),
        ("segformer_b0", "fast", "cannot read the throughput"),
    ],
)
def test_a_throughput_that_the_plan_cannot_use_is_refused(name, rate, says):
    config = api.load_config("demo", {"variants": ["backbones/segformer_b0"]})
    with pytest.raises(ConfigError, match=says):
        api.plan(config, {"teacher": 100.0, name: rate})


def test_a_run_returns_its_rows_or_says_why_not(tmp_path, monkeypatch):
    asked = []

    def run(preset, overrides, root, text):
        asked.append((preset, overrides, root))
        if not root.exists():
            leave(root, json.dumps([ROW]))
        return 0 if preset == "smoke" else 1

    monkeypatch.setattr(local, "run", run)
    (row,) = api.run("smoke", {"seeds": 2, "variants": ["table3"]}, workdir=tmp_path / "work")
    assert row.model_dump() == ROW
    assert asked == [("smoke", ["seeds=2", 'variants=["table3"]'], tmp_path / "work")]
    with pytest.raises(ClipteaError, match="ended with the exit code 1; expected 0; see the messages"):
        api.run("demo", workdir=tmp_path / "work")


def leave(root, text):
    """Results with their hash, as a run leaves them."""
    kept = root / "reports" / "20260101-000000-1"
    kept.mkdir(parents=True)
    (kept / "results.json").write_text(text)
    (kept / "SHA256SUMS").write_bytes(sums({"results.json": text.encode()}))
    (root / "results.json").unlink(missing_ok=True)
    (root / "results.json").symlink_to(kept / "results.json")


@pytest.mark.parametrize("text", ["", "[", "{}", "null", "[1]", json.dumps([ROW | {"pAcc": 2.0}]), "\x00"])
def test_damaged_results_are_refused_in_one_line(text, tmp_path):
    with pytest.raises(StorageError, match=r"results\.json does not exist"):
        api.read_results(tmp_path)
    leave(tmp_path, text)
    with pytest.raises(StorageError, match=r"results\.json cannot be read") as refused:
        api.read_results(tmp_path)
    assert "\n" not in str(refused.value)


def test_results_with_another_digit_or_without_a_hash_are_refused(tmp_path):
    workdir = Workdir(tmp_path / "work")
    try:
        workdir.keep({"report.html": b"<p>report</p>", "results.json": json.dumps([ROW]).encode()})
    finally:
        workdir.close()
    assert [row.pAcc for row in api.read_results(workdir.root)] == [0.5]
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=workdir.results.resolve().parent, check=True)
    copy = shutil.copytree(workdir.root, tmp_path / "copy", symlinks=False)  # where the links have become files
    assert [row.pAcc for row in api.read_results(copy)] == [0.5]
    (copy / "results.json").write_text(json.dumps([ROW]).replace('"pAcc": 0.5', '"pAcc": 0.9'))
    with pytest.raises(StorageError, match=r"results\.json is damaged: it does not match its SHA256SUMS"):
        api.read_results(copy)
    workdir.results.write_text(json.dumps([ROW]).replace('"pAcc": 0.5', '"pAcc": 0.9'))
    with pytest.raises(StorageError, match=r"results\.json is damaged: it does not match its SHA256SUMS"):
        api.read_results(workdir.root)
    (workdir.results.resolve().parent / "SHA256SUMS").unlink()
    with pytest.raises(StorageError, match=r"results\.json has no SHA256SUMS; .*; run again"):
        api.read_results(workdir.root)


def test_a_run_is_submitted_with_checked_settings(monkeypatch):
    sent = []
    monkeypatch.setattr(submit, "submit", lambda endpoint, given, *rest: sent.append((endpoint, given, *rest)) or "id")
    monkeypatch.setattr("cliptea_pipeline.endpoint.Endpoint", lambda *where: where)
    assert api.submit("smoke", {"seeds": 2}, endpoint="http://kfp", namespace="team", experiment="e") == "id"
    expected = {"preset": "smoke", "config": "", "overrides": ["seeds=2"], "skip_unchanged": False, "part": ""}
    assert sent == [(("http://kfp", "team"), expected, "e", None)]
    with pytest.raises(ConfigError, match=r"train\.iterations=0 is refused"):
        api.submit("smoke", {"train.iterations": 0}, endpoint="http://kfp")
    assert len(sent) == 1


def test_importing_is_light():
    text = (
        "import sys, cliptea, cliptea_pipeline.api; print([m for m in ('torch', 'kfp', 'mlflow') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, text=True)
    assert told.stdout == "[]\n"
