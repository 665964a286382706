"""The command `cliptea predict` with images and results in S3: as with local folders, and with the same refusals."""

import io
import json

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from typer.testing import CliRunner

from cliptea.models import build_student
from cliptea_pipeline.cli import app

DIM = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    safetensors.torch.save_file(build_student("demo_fpn", DIM).state_dict(), folder / "model.safetensors")
    safetensors.torch.save_file({"text": torch.eye(3, DIM)}, folder / "text.safetensors")
    evaluation = {"gamma": 0.0, "scale": [32, 32]}
    description = {"backbone": "demo_fpn", "dim": DIM, "classes": ["a", "b", "c"], "unseen": ["c"]}
    (folder / "model.json").write_text(json.dumps(description | {"evaluation": evaluation}))
    return folder


def png(seed):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def call(*arguments):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def test_images_and_results_in_s3_are_those_of_local_folders(store, model, tmp_path):
    names = ("in/a.png", "in/sub/b.png", "in/.hidden/c.png", "in/notes.txt", "in/out/masks/old.png")
    for seed, name in enumerate(names):
        store.put(name, png(seed))
    store.put("in/cut.png", png(9)[:200])
    store.put("in/sub/cliptea.json", b'{"kind": "folder of predictions"}')
    for seed, name in enumerate(names[:2]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(seed))
    assert call(tmp_path / "in", "--model", model, "-o", tmp_path / "out").exit_code == 0
    answer = call(store.uri("in"), "--model", model, "-o", store.uri("in/out/new"), "--json")
    assert answer.exit_code == 1  # because of the image that is cut
    assert call(store.uri("in"), "--model", model, "-o", f"{store.uri('in/out')}/new/").exit_code == 1  # used again
    told = json.loads(answer.stdout)
    assert [row["image"] for row in told["images"]] == [
        store.uri(f"in/{name}") for name in ("a.png", "out/masks/old.png", "sub/b.png")
    ]
    assert [store.uri("in/cut.png") in error for error in told["errors"]] == [True]
    assert told["output"] == store.uri("in/out/new")
    assert "1 left out (hidden)" in answer.stderr
    assert "cliptea.json" not in answer.stderr
    for name in ("masks/a.png", "masks/sub/b.png", "overlays/a.jpg"):
        assert store.get(f"in/out/new/{name}") == (tmp_path / "out" / name).read_bytes()
    areas = json.loads(store.get("in/out/new/areas.json"))
    assert areas["images"] == told["images"]
    assert areas["left_out"]["hidden"] == {"number": 1, "first": [store.uri("in/.hidden/c.png")]}
    assert json.loads(store.get("in/out/new/cliptea.json"))["kind"] == "folder of predictions"


def test_a_single_image_in_s3_and_a_local_one_get_different_names(store, model, tmp_path):
    store.put("in/a.png", png(0))
    (tmp_path / "a.png").write_bytes(png(1))
    answer = call(store.uri("in/a.png"), tmp_path / "a.png", "--model", model, "-o", tmp_path / "out")
    assert answer.exit_code == 0, answer.output
    assert sorted(file.name for file in (tmp_path / "out/masks").iterdir()) == ["a.png", "a_png.png"]


def test_what_cannot_be_done_in_s3_is_one_line_and_writes_nothing(store, model, tmp_path):
    store.put("in/a.png", png(0))
    store.put("empty/notes.txt", b"precious")
    store.put("taken/cliptea.json", b'{"kind": "work directory"}')
    before = [entry.key for entry in store.entries("")]
    for source, output, words in (
        (
            "in",
            store.uri("empty"),
            "holds files that are not from cliptea; expected a folder that is new, empty, or already a folder of",
        ),
        ("in", store.uri("taken"), "is a work directory of cliptea"),
        ("in", "s3://", "does not name a bucket"),
        ("in", "s3:///x", "does not name a bucket"),
        ("in", "s3://nobody-has-it/out", "nobody-has-it"),
        (
            "in",
            "s3://user:word@bucket/out",
            "names a user or holds a password|holds credentials|does not name a bucket",
        ),
        ("in", "gs://bucket/out", "is a URI; expected a path on this machine"),
        ("nowhere", store.uri("out"), "nowhere does not exist"),
        ("empty", store.uri("out"), "empty contains no images"),
    ):
        answer = call(store.uri(source), "--model", model, "-o", output)
        errors = [line for line in answer.stderr.splitlines() if line.startswith("error: ")]
        assert (answer.exit_code != 0, len(errors)) == (True, 1), answer.output
        assert any(word in errors[0] for word in words.split("|")), errors
        assert "word@" not in answer.output
    assert [entry.key for entry in store.entries("")] == before
