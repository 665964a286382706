"""`data.max_bad`: images that cannot be used are left out and listed, up to that number."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cliptea import progress
from cliptea import settings as all_settings
from cliptea.config import DataConfig
from cliptea.data.shards import ShardReader
from cliptea.data.split_shards import write_split
from cliptea.errors import DataError
from cliptea.manifest import Manifest
from cliptea.run import Run
from cliptea.steps.gather import _warnings
from cliptea.steps.split import make_splits, split_output
from cliptea.steps.teacher import TeacherCache
from cliptea.storage import FileStore
from cliptea_pipeline.cli import app

NAMES = {"train": [f"t{index:02d}" for index in range(9)], "val": ["v0", "v1", "v2"]}


@pytest.fixture
def root(tmp_path):
    rng, root = np.random.default_rng(0), tmp_path / "data"
    for part, names in NAMES.items():
        for kind in ("images", "labels"):
            (root / kind / part).mkdir(parents=True)
        for name in names:
            Image.fromarray(rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)).save(root / f"images/{part}/{name}.png")
            Image.fromarray(rng.integers(0, 2, (8, 9), dtype=np.uint8)).save(root / f"labels/{part}/{name}.png")
    (root / "classes.json").write_text(json.dumps({"classes": ["x", "y"], "unseen": ["y"]}))
    return root


def spoil(root):
    """One image of each kind of fault: a missing label map, a damaged image, and an unknown id."""
    (root / "labels/train/t00.png").unlink()
    (root / "images/train/t04.png").write_bytes(b"no image")
    Image.fromarray(np.full((8, 9), 7, np.uint8)).save(root / "labels/val/v2.png")


def settings(root, max_bad):
    return DataConfig(dataset="folder", root=str(root), max_bad=max_bad)


def write(root, store, max_bad):
    return write_split(FileStore(store), settings(root, max_bad), "split/x", ("train", "val"))


def test_bad_images_are_left_out_with_their_reasons(root, tmp_path):
    spoil(root)
    made = write(root, tmp_path / "store", 3)
    reasons = {"t00": "t00.png is missing", "t04": "cannot decode the image", "v2": "holds the label ids 7 (72 pixels)"}
    listed = {name: why for part in ("train", "val") for name, why in made.info["bad_images"][part].items()}
    assert listed.keys() == reasons.keys()
    assert all(reasons[name] in why for name, why in listed.items())
    assert {part: facts["images"] for part, facts in made.info["counts"].items()} == {"train": 7, "val": 2}
    for (part, names), images in zip(NAMES.items(), ("2 train images", "1 val image"), strict=True):
        reader = ShardReader(FileStore(tmp_path / "store"), made.objects, part)
        assert [reader.name(index) for index in range(len(reader))] == [name for name in names if name not in listed]
        (line,) = [problem for problem in made.info["problems"] if f"leaves out {images} that cannot be" in problem]
        assert "data.max_bad=3" in line
        assert all(f"{name} (" in line for name in made.info["bad_images"][part])


@pytest.mark.parametrize(("max_bad", "says"), [(0, r"t00\.png is missing"), (2, r"3 images cannot be used \(data")])
def test_one_too_many_ends_the_run(root, tmp_path, max_bad, says):
    spoil(root)
    with pytest.raises(DataError, match=says):
        write(root, tmp_path / "store", max_bad)


def test_a_part_without_any_usable_image_ends_the_run(root, tmp_path):
    for name in NAMES["val"]:
        (root / f"labels/val/{name}.png").unlink()
    with pytest.raises(DataError, match="no val image of folder can be used"):
        write(root, tmp_path / "store", 99)


def test_a_killed_split_goes_on_behind_the_images_that_it_left_out(root, tmp_path):
    spoil(root)
    config = settings(root, 3).model_copy(update={"shard_mib": 0})  # each record is a shard
    store = FileStore(tmp_path / "store")
    made = write_split(store, config, "split/x", ("train", "val"))
    for file in (tmp_path / "store/split/x/train").glob("0000[3-9]*"):
        file.unlink()
    again = write_split(store, config, "split/x", ("train", "val"))
    assert again == made
    (root / "labels/train/t00.png").write_bytes((root / "labels/train/t01.png").read_bytes())  # it can be used now
    assert list(write_split(store, config, "split/x", ("train", "val")).info["bad_images"]["train"]) == ["t04"]


def test_the_number_counts_in_the_fingerprint_only_if_it_is_set(root):
    fps = [split_output(settings(root, most), "digest", ("train", "val")).fingerprint for most in (0, 1, 2)]
    plain = split_output(DataConfig(dataset="folder", root=str(root)), "digest", ("train", "val")).fingerprint
    assert len({*fps}) == 3
    assert fps[0] == plain


@pytest.mark.parametrize(("max_bad", "code"), [(0, 1), (2, 1), (3, 0)])
def test_data_check_has_the_same_limit(root, max_bad, code):
    spoil(root)
    command = ["data", "check", "--preset", "folder", "--set", f"data.root={root}", "--workers", "1"]
    answer = CliRunner().invoke(app, [*command, "--set", f"data.max_bad={max_bad}"])
    assert answer.exit_code == code, answer.output
    assert "7 train images, 2 val images can be used" in answer.stdout
    assert ("error: " in answer.stdout) == bool(code)
    assert ("warning: images that cannot be used and are left out, as data.max_bad=3 allows (3)" in answer.stdout) == (
        not code
    )
    for name in ("t00.png", "t04.png", "v2.png"):
        assert name in answer.stdout
    if max_bad == 2:
        assert answer.stderr.endswith("error: 3 problems would end a run (data.max_bad=2)\n")


def test_data_check_does_not_leave_out_all_images_of_a_part(root):
    for name in NAMES["val"]:
        (root / f"labels/val/{name}.png").unlink()
    command = ["data", "check", "--preset", "folder", "--set", f"data.root={root}", "--workers", "1"]
    answer = CliRunner().invoke(app, [*command, "--set", "data.max_bad=5"])
    assert answer.exit_code == 1, answer.output
    assert "v0.png is missing" in answer.stdout


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ("[t04, t05, v2, t00]", ["2 train images of folder that cannot be used", ": t00, t04", ": v2"]),
        ("[t05, v1]", []),
        ("6", []),
    ],
)
def test_a_figure_of_an_image_that_is_left_out_is_told_in_the_run_and_its_report(
    root, tmp_path, monkeypatch, figures, said
):
    spoil(root)
    monkeypatch.setenv("CLIPTEA_STORE", (tmp_path / "store").as_uri())
    own = [f"data.root={root}", "data.max_bad=3", "teacher.weights=demo", f"evaluation.figures={figures}"]
    run = Run(
        config=all_settings.load("folder", own),
        data_digest="d",
        fingerprint="",
        job_id="",
        tracking_run="",
        variants=[],
    )
    warned = []
    monkeypatch.setattr(progress, "warn", warned.append)
    for _ in range(2):  # also where the shards are reused
        warned.clear()
        splits = make_splits(run)
        told = [line for line in warned if line.startswith("evaluation.figures names ")]
        assert len(told) == (2 if said else 0)
        assert all(part in "\n".join(told) for part in said)
    cache = TeacherCache(tokens=Manifest(kind="tokens", fingerprint="t"), regions={}, text={})
    assert [line for line in _warnings(run, splits, cache, []) if "evaluation.figures" in line] == told


def test_the_manifest_can_be_read_again(root, tmp_path):
    spoil(root)
    made = write(root, tmp_path / "store", 3)
    manifest = Manifest(kind="split", fingerprint="x", objects=made.objects, info=made.info)
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
