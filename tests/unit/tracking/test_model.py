"""A student in MLflow loads where this package is not, and predicts there what it does here."""

import json
import shutil
import subprocess
import sys
import tempfile

import mlflow.pyfunc
import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from mlflow import MlflowClient
from PIL import Image

from cliptea.errors import StorageError
from cliptea.models import build_student
from cliptea.segment.segmenter import open_segmenter
from cliptea.serving.photos import read_image
from cliptea.tracking.champions import Score
from cliptea.tracking.database import database_uri
from cliptea.tracking.experiment import experiment_id
from cliptea.tracking.mlflow_client import connect
from cliptea.tracking.model import fetch_model
from cliptea.tracking.registry import register, settle
from cliptea.tracking.runs import ChildRun

ELSEWHERE = """
import importlib.util, json, sys
from pathlib import Path
sys.path = [place for place in sys.path if not (Path(place) / "cliptea").is_dir()]
assert importlib.util.find_spec("cliptea") is None
import mlflow.pyfunc, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
images = np.load(sys.argv[2])
np.savez(sys.argv[3], own=model.predict(images), some=model.predict(images, params={"classes": ["c", "a"]}))
import cliptea
from cliptea.data.sample import decode_image
np.save(sys.argv[5], decode_image(Path(sys.argv[4]).read_bytes(), "photo"))
from cliptea.models import build_student
for name in ("segformer_b0", "convnext_atto", "segnext_t"):
    build_student(name, 8)
assert not [name for name in sys.modules if name.startswith("cliptea_pipeline") or name == "open_clip"]
print(cliptea.__file__)
"""


@pytest.fixture(scope="module")
def logged(module_tracking_uri):
    """Client and URI of a model that was logged twice, the first time not to the end."""
    client = MlflowClient(module_tracking_uri)
    run = client.create_run(experiment_id(client)).info.run_id
    for _ in range(2):
        log_small(client, run)
    return client, f"runs:/{run}/model"


def log_small(client, run):
    torch.manual_seed(0)
    text = torch.nn.functional.normalize(torch.randn(3, 16), dim=1)
    files = {
        "model.safetensors": safetensors.torch.save(build_student("demo_fpn", 16).state_dict()),
        "text.safetensors": safetensors.torch.save({"text": text}),
    }
    description = {
        "backbone": "demo_fpn",
        "dim": 16,
        "classes": ["a", "b", "c"],
        "unseen": ["c"],
        "evaluation": {"gamma": 0.1, "scale": [64, 64]},
    }
    ChildRun(client, run).log_model(files, description)


@pytest.fixture
def folder(logged, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", logged[0].tracking_uri)
    with fetch_model(logged[1]) as found:
        yield found


def test_the_model_holds_code_and_tensors_and_no_pickle(folder):
    names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert {"MLmodel", "pyfunc.py", "requirements.txt", "artifacts/student/model.json"} <= names
    assert "code/cliptea/segment/segmenter.py" in names
    names.remove("artifacts/student/SHA256SUMS")
    assert {name.rpartition(".")[2] for name in names} <= {"MLmodel", "json", "py", "safetensors", "txt", "yaml"}
    requirements = (folder / "requirements.txt").read_text().split()
    assert all("==" in line and "+" not in line for line in requirements)
    assert not {"kfp", "open_clip_torch", "minio"} & {line.partition("==")[0] for line in requirements}
    described = yaml.safe_load((folder / "MLmodel").read_text())
    assert described["metadata"] == {"classes": ["a", "b", "c"], "unseen": ["c"]}
    assert json.loads(described["signature"]["inputs"])[0]["tensor-spec"] == {
        "dtype": "uint8",
        "shape": [-1, -1, -1, 3],
    }


def test_it_predicts_the_same_where_this_package_is_not(logged, folder, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 56, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    photo = Image.fromarray(np.linspace(0, 65535, 60).reshape(6, 10).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "photo.png", exif=exif)
    names = ("images.npy", "masks.npz", "photo.png", "photo.npy")
    files = [str(folder), *(str(tmp_path / name) for name in names)]
    ended = subprocess.run(
        [sys.executable, "-I", "-c", ELSEWHERE, *files], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == str(folder / "code/cliptea/__init__.py")
    upright = np.rot90(np.array(photo) >> 8, 3)  # what predict and training see, too
    assert (np.load(tmp_path / "photo.npy") == upright[..., None]).all()
    assert (read_image(tmp_path / "photo.png") == upright[..., None]).all()
    model = open_segmenter(folder)
    with np.load(tmp_path / "masks.npz") as masks:
        for name, classes in (("own", model.known()), ("some", model.known(["c", "a"]))):
            expected = np.stack([model.mask(image, classes) for image in images])
            assert masks[name].dtype == np.uint8
            assert (masks[name] == expected).all()


def test_mlflow_loads_it_by_its_uri_and_checks_what_it_is_given(logged, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", logged[0].tracking_uri)
    model = mlflow.pyfunc.load_model(logged[1])
    assert model.predict(np.zeros((1, 33, 20, 3), np.uint8)).shape == (1, 33, 20)
    with pytest.raises(mlflow.exceptions.MlflowException, match="dtype"):
        model.predict(np.zeros((1, 33, 20, 3), np.float64))


def test_the_run_shows_its_model(logged):
    client, uri = logged
    (shown,) = json.loads(client.get_run(uri.split("/")[1]).data.tags["mlflow.log-model.history"])
    assert (shown["artifact_path"], shown["run_id"]) == ("model", uri.split("/")[1])
    assert "python_function" in shown["flavors"]


def test_a_champion_is_fetched_by_its_alias(logged, folder):
    client, uri = logged
    run = uri.split("/")[1]
    version = register(client, "world", f"{client.get_run(run).info.artifact_uri}/model", run, Score(0.5, "", 0), {})
    settle(client, "world", version)
    with fetch_model("models:/world@champion") as found:
        files = [file.relative_to(found) for file in found.rglob("*") if file.suffix in (".safetensors", ".py")]
        assert len(files) > 20
        assert all((found / file).read_bytes() == (folder / file).read_bytes() for file in files)
    with (
        pytest.raises(StorageError, match="the model models:/world@challenger does not exist"),
        fetch_model("models:/world@challenger"),
    ):
        pass


def test_the_names_of_all_folders_are_kept(tmp_path, empty_database, monkeypatch):
    """MLflow decodes some paths, so that %41 would become A, in the temporary folder and in the database's."""
    odd = tmp_path / "100%41 ?#;"
    (odd / "temporary").mkdir(parents=True)
    shutil.copy(empty_database, odd / "mlflow.db")
    monkeypatch.setattr(tempfile, "tempdir", str(odd / "temporary"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database_uri(odd / "mlflow.db"))
    client = connect()
    run = client.create_run(experiment_id(client)).info.run_id
    log_small(client, run)
    register(client, "odd", f"{client.get_run(run).info.artifact_uri}/model", run, Score(0.5, "e", 0.0), {})
    for uri in (f"runs:/{run}/model", "models:/odd/1"):
        with fetch_model(uri) as found:
            assert open_segmenter(found).description.classes == ["a", "b", "c"]
            assert found.is_relative_to(odd / "temporary")
    assert list(tmp_path.iterdir()) == [odd]
    assert sorted(path.name for path in odd.iterdir()) == ["artifacts", "mlflow.db", "temporary"]
    assert list((odd / "temporary").iterdir()) == []
