"""A model in train.init_from is read, checked and stored by resolve, which needs no torch for it."""

import errno
import json
import shutil
import subprocess
import sys
from contextlib import nullcontext

import pytest
import safetensors.torch
import torch

from cliptea import progress, settings
from cliptea.errors import ClipteaError, ConfigError, NotFinite, StorageError, Unusable
from cliptea.files import SUMS, sums
from cliptea.manifest import find, read_object
from cliptea.models import build_student
from cliptea.plan import make_plan
from cliptea.run import Run, expand
from cliptea.steps import preflight, resolve
from cliptea.steps.initial import check_address, initial_state, put_initial, read_initial
from cliptea.storage import open_store
from cliptea.teacher.width import teacher_width

DIM = 64  # of the demo's teacher
UNSEEN = ("Zebra", "b", "wood")


@pytest.fixture
def folder(tmp_path):
    """The folder of a trained model."""
    return save(tmp_path / "model", 0)


def save(folder, seed, **described):
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    safetensors.torch.save_file(build_student("demo_fpn", DIM).state_dict(), folder / "model.safetensors")
    safetensors.torch.save_file({"text": torch.eye(2, DIM)}, folder / "text.safetensors")
    description = {"backbone": "demo_fpn", "dim": DIM, "classes": ["a", "b"], "unseen": ["b"], "evaluation": {}}
    (folder / "model.json").write_text(json.dumps(description | {"licence": "MIT"} | described))
    return folder


def config(given, *overrides):
    chosen = ["variants=[backbones/demo_fpn]", "student.backbone=demo_fpn", f"train.init_from={given}", *overrides]
    return settings.load("demo", chosen)


def read(given, *overrides):
    (model,) = read_initial([config(given, *overrides)], UNSEEN).values()
    return model


def change(folder, tensors):
    file = folder / "model.safetensors"
    safetensors.torch.save_file(tensors(safetensors.torch.load_file(file)), file)


def test_the_weights_and_not_their_place_determine_the_fingerprint(folder, tmp_path):
    first = read(folder).manifest.fingerprint
    assert read(shutil.copytree(folder, tmp_path / "copy")).manifest.fingerprint == first
    assert read(save(tmp_path / "other", 1)).manifest.fingerprint != first


def test_a_model_of_mlflow_has_its_files_in_a_folder(folder, tmp_path):
    inside = shutil.copytree(folder, tmp_path / "mlflow/artifacts/student")
    files = {file.name: file.read_bytes() for file in inside.iterdir()}
    (inside / SUMS).write_bytes(sums(files))
    assert read(tmp_path / "mlflow") == read(folder)
    (inside / "text.safetensors").write_bytes(b"x")
    with pytest.raises(StorageError, match="is damaged; expected files that match its SHA256SUMS"):
        read(tmp_path / "mlflow")


@pytest.mark.parametrize("name", ["models:/cliptea-demo@champion", "models:/cliptea-demo/3", "runs:/0a/model"])
def test_a_name_in_the_registry_is_fetched(folder, name, monkeypatch):
    asked = []
    monkeypatch.setattr("cliptea.tracking.model.fetch_model", lambda uri: asked.append(uri) or nullcontext(folder))
    assert read(name) == read(folder)
    assert asked == [name]


def test_students_with_one_model_read_it_once(folder, monkeypatch):
    students = [variant.config for variant in expand(config(folder, "seeds=2", "variants=[table4]"))]
    assert len(students) > 2
    assert len(read_initial(students, UNSEEN)) == 1
    assert read_initial([settings.load("demo")], UNSEEN) == {}


def test_a_start_from_a_model_is_warned_of_where_it_is_validated(monkeypatch):
    warned = []
    monkeypatch.setattr(progress, "warn", warned.append)
    for overrides in (("train.validate_every=2", "seeds=2"), ()):
        resolve._warn_of_held_out(expand(config("models:/m/1", *overrides)))
    resolve._warn_of_held_out(expand(settings.load("demo", ["train.validate_every=2"])))
    assert len(warned) == 1
    assert warned[0].startswith(
        "the model in train.init_from=models:/m/1 may have learned from the images that are held"
    )


def test_what_is_stored_is_what_training_starts_from(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPTEA_STORE", (tmp_path / "store").as_uri())
    store, chosen = open_store(), config(folder)
    models = read_initial([chosen], UNSEEN)
    (name, model), *_ = models.items()
    run = Run(
        config=chosen, data_digest="d", fingerprint="f", job_id="j", tracking_run="t", variants=[],
        initial={name: model.manifest},
    )  # fmt: skip
    with pytest.raises(StorageError, match=r"no longer in .*; run the pipeline again"):
        initial_state(store, run, chosen)
    put_initial(store, models)
    stored = find(store, model.manifest.output)
    assert read_object(store, stored.objects["model.safetensors"]) == (folder / "model.safetensors").read_bytes()
    state = initial_state(store, run, chosen)
    assert (state.name, state.dim) == (str(folder), DIM)
    own = safetensors.torch.load_file(folder / "model.safetensors")
    assert all(torch.equal(state.weights[key], value) for key, value in own.items())
    assert initial_state(store, run, settings.load("demo")) is None


def test_an_error_of_the_system_is_no_damage_of_the_model(folder, monkeypatch):
    def fails(folder):
        raise PermissionError(errno.EACCES, "Permission denied", "model.json")

    monkeypatch.setattr("cliptea.steps.initial.read_model", fails)
    with pytest.raises(Unusable, match=r"^cannot read train\.init_from=.*: this user may not do that"):
        read(folder)


NANS = {
    "float32": lambda w: w | {"head.bias": torch.full_like(w["head.bias"], float("nan"))},
    "float16": lambda w: (
        {k: v.half() if v.is_floating_point() else v for k, v in w.items()}
        | {"head.bias": torch.full((DIM,), float("inf"), dtype=torch.float16)}
    ),
    "bfloat16": lambda w: w | {"head.bias": torch.full((DIM,), -float("inf"), dtype=torch.bfloat16)},
    "float64": lambda w: w | {"head.bias": torch.full((DIM,), 1e300, dtype=torch.float64)},  # infinite in float32
}


@pytest.mark.parametrize("broken", NANS.values(), ids=NANS)
def test_weights_that_are_not_finite_are_refused(folder, broken):
    change(folder, broken)
    with pytest.raises(NotFinite, match=r"^head\.bias of the model in train\.init_from=.* holds NaN or infinity"):
        read(folder)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_any_precision_are_read(folder, kind):
    change(folder, lambda weights: {k: v.to(kind) if v.is_floating_point() else v for k, v in weights.items()})
    assert read(folder).manifest.info == {
        "backbone": "demo_fpn", "dim": DIM, "licence": "MIT", "setting": "inductive", "seen": ["a"],
    }  # fmt: skip


def test_another_backbone_or_width_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="has the backbone demo_fpn, but the student has segformer_b0; expected"):
        read(folder, "variants=[table3/full]", "student.backbone=segformer_b0")
    with pytest.raises(ConfigError, match="has 32 features, and the teacher has 64; expected"):
        read(save(tmp_path / "narrow", 0, dim=32))


def test_a_model_that_had_masks_of_unseen_classes_is_refused(tmp_path):
    """Otherwise the scores of these classes would be those of a supervised network."""
    folder = save(tmp_path / "other", 0, classes=["a", "zebra", "b", "wood"], unseen=["b"])
    with pytest.raises(ConfigError, match="trained with masks of 'zebra', 'wood', and these classes are unseen"):
        read(folder)
    assert read(save(tmp_path / "same", 0, classes=["a", "zebra", "b"], unseen=["b", "zebra"]))


@pytest.mark.parametrize("name", ["caf\u00e9", "cafe\u0301", "Caf\u00e9 ", "caf&eacute;"])
def test_a_class_with_masks_is_known_however_its_name_is_written(name, tmp_path):
    model = save(tmp_path / "m", 0, classes=[name, "b"])
    with pytest.raises(ConfigError, match="trained with masks of"):
        read_initial([config(model)], ["caf\u00e9"])


def test_classes_of_earlier_models_in_a_chain_count(tmp_path):
    model = save(tmp_path / "m", 0, learned_before=["zebra"])
    assert read_initial([config(model)], ["wood"]).keys() == {str(model)}
    with pytest.raises(ConfigError, match="trained with masks of 'zebra'"):
        read(model)


def test_a_model_that_knew_unseen_names_starts_no_inductive_student(tmp_path):
    """Its student would be listed beside students that knew nothing."""
    folder = save(tmp_path / "transductive", 0, setting="transductive")
    with pytest.raises(ConfigError, match="knew the names of unseen classes; expected an inductive model"):
        read(folder)
    known = ["method.transductive.names=true", "method.clustering.region_tokens=crop"]
    assert read(folder, *known).manifest.info["setting"] == "transductive"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors is missing"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "does not hold a cliptea model"),
        (lambda folder: (folder / "model.json").write_text("{}"), "does not hold a cliptea model"),
        (lambda folder: (folder / "model.json").write_text("{"), "does not hold a cliptea model"),
        (shutil.rmtree, "this folder does not exist"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(folder, damage, says):
    damage(folder)
    with pytest.raises(ClipteaError, match=says) as caught:
        read(folder)
    assert "train.init_from=" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_address_is_checked_before_a_run_starts(tmp_path):
    for given in ("s3://bucket/model", "models:/x@champion", "models:/x/1", "runs:/a/model", tmp_path):
        preflight.check(config(given))
    with pytest.raises(ConfigError, match="does not name a version; expected models:/x@champion or models:/x/VERSION"):
        preflight.check(config("models:/x"))
    with pytest.raises(ConfigError, match=r"/none: this folder does not exist; expected a folder, s3://"):
        check_address(config(tmp_path / "none"))


def test_plan_tells_a_missing_model_and_whose_licence_counts(folder, tmp_path):
    for given, missing in ((folder, False), (tmp_path / "none", True), ("models:/x@champion", False)):
        plan = make_plan(config(given), {})
        said = f"weights: train.init_from={given} is not a folder on this machine"
        assert (said in plan.missing) is missing
        assert [student.licence for student in plan.students] == [f"that of {given}"]


def test_reading_a_model_imports_no_torch(folder):
    code = (
        "import sys; from cliptea import settings; from cliptea.steps.initial import read_initial\n"
        f"chosen = ['variants=[backbones/demo_fpn]', 'student.backbone=demo_fpn', 'train.init_from={folder}']\n"
        "print(len(read_initial([settings.load('demo', chosen)], ())), 'torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "1 False\n"


@pytest.mark.parametrize(
    ("overrides", "width"),
    [
        ([], DIM),
        (["teacher.weights=openai", "teacher.model=ViT-B-16-quickgelu"], 512),
        (["teacher.weights=openai", "teacher.model=ViT-L-14"], 768),
        (["teacher.weights=s3://bucket/clip.pt"], 512),
        (["teacher.weights=s3://bucket/clip"], None),  # its folder says more
        (["teacher.weights=openai", "teacher.model=none"], None),
    ],
)
def test_the_width_of_the_teacher_without_torch(overrides, width):
    assert teacher_width(settings.load("demo", overrides).teacher) == width


def test_the_width_of_a_folder_of_weights_is_in_it(tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 24}}))
    assert teacher_width(settings.load("demo", [f"teacher.weights={tmp_path}"]).teacher) == 24
