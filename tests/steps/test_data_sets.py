"""Every published data set, in its true layout, through all steps: split, teacher, train, evaluate, compare."""

import json
import shutil

import miniatures
import numpy as np
import open_clip
import pytest
import torch

from cliptea.evaluation.metrics import score
from cliptea.steps.compare import compare_variants
from cliptea.steps.evaluate import evaluate_variant
from cliptea.steps.resolve import start_run
from cliptea.steps.split import log_splits, make_splits
from cliptea.steps.teacher import publish_cache
from cliptea.steps.train import TrainInputs, train_variant
from cliptea.storage import fetch

PIECES = {"voc12": miniatures.voc12, "coco_stuff164k": miniatures.coco_stuff164k}
PIECES |= {"pascal_context": miniatures.pascal_context}
CLASSES = {"voc12": (20, 5), "coco_stuff164k": (171, 15), "pascal_context": (59, 10)}
CLIP = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
FAMILIES = ["segformer_b0", "convnext_atto", "swin_t", "segnext_t", "timm:resnet18"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A small CLIP with random weights, in open_clip's local layout."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**CLIP)
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    described = {"model_cfg": CLIP, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    return folder


@pytest.fixture
def run_all(tmp_path, monkeypatch, clip, empty_database):
    """Runs every step in this process; returns what each hands on."""
    monkeypatch.setenv("CLIPTEA_STORE", (tmp_path / "store").as_uri())
    monkeypatch.setenv("CLIPTEA_EVENTS", str(tmp_path / "events"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_database, tmp_path)}")
    torch.set_num_threads(1)
    small = [
        "teacher.crop=64", "teacher.base_scale=[96,72]", "teacher.views=1", "student.pretrained=false",
        "train.iterations=2", "train.batch_size=4", "train.workers=0", "train.log_every=1",
        "method.generator_layers=1", "method.generator_ffn=64",
        "evaluation.scale=[128,64]", "evaluation.figures=1",
    ]  # fmt: skip

    def run(dataset, *overrides):
        root = tmp_path / dataset
        PIECES[dataset](root)
        run = start_run(dataset, [*small, f"data.root={root}", f"teacher.weights={clip}", *overrides], "job")
        splits = make_splits(run)
        log_splits(run, splits)
        cache = publish_cache(run, splits)
        evaluated = []
        for variant in run.variants:
            model = train_variant(TrainInputs(run=run, variant=variant, splits=splits, teacher=cache))
            evaluated.append(evaluate_variant(run, variant, splits, cache, model))
        return run, splits, cache, evaluated, compare_variants(run, splits, cache, evaluated)

    return run


def check_rows(evaluated, splits, dataset, label):
    """Scores of a row follow from its stored confusion matrix, which counts every labelled val pixel once."""
    own = splits.others.get(label, splits.own)
    total, unseen = CLASSES[dataset]
    assert len(own.info["catalogue"]["classes"]) == total
    assert len(own.info["catalogue"]["unseen"]) == unseen
    (row,) = [row for row in evaluated.rows if row.dataset == label]
    with np.load(fetch(stored(evaluated.manifests[label].objects["figures.npz"].key))) as arrays:
        matrix = arrays["confusion"]
    counts = [own.info["counts"]["val"]["classes"][name]["pixels"] for name in own.info["catalogue"]["classes"]]
    np.testing.assert_array_equal(matrix.sum(1), counts)
    ids = [own.info["catalogue"]["classes"].index(name) for name in own.info["catalogue"]["unseen"]]
    assert score(matrix, ids).hiou == row.hiou
    assert set(row.per_class) == set(own.info["catalogue"]["classes"])
    return row


def stored(key):
    from cliptea.storage import open_store

    return open_store().uri(key)


@pytest.mark.parametrize("dataset", PIECES)
def test_a_data_set_goes_through_all_steps(run_all, dataset):
    _, splits, cache, (evaluated,), compared = run_all(dataset, "variants=[backbones/segformer_b0]")
    row = check_rows(evaluated, splits, dataset, dataset)
    assert row.gamma == 1.5
    train = splits.own.info["counts"]["train"]["classes"]
    assert all(train[name]["pixels"] == 0 for name in splits.own.info["catalogue"]["unseen"])
    assert list(cache.text) == [dataset]
    assert fetch(compared.report).read_text(encoding="utf-8").count("uses a different protocol") <= 1


def test_every_variant_beyond_the_paper_goes_through_all_steps(run_all):
    run, splits, cache, evaluated, compared = run_all("voc12", "variants=[beyond]", "student.backbone=demo_fpn")
    assert len(evaluated) == len(run.variants) == len(compared.rows) >= 12
    for one in evaluated:
        check_rows(one, splits, "voc12", "voc12")
    assert set(cache.clustered) == {"dense", "value", "key"}
    page = fetch(compared.report).read_text(encoding="utf-8")
    assert "beyond-transductive" in page


@pytest.mark.long
@pytest.mark.parametrize("backbone", FAMILIES)
def test_every_family_goes_through_all_steps(run_all, backbone):
    _, splits, _, evaluated, _ = run_all("voc12", "variants=[seeds]", "seeds=1", f"student.backbone={backbone}")
    assert check_rows(evaluated[0], splits, "voc12", "voc12").backbone == backbone


def test_students_of_one_data_set_are_scored_on_two_others(run_all, tmp_path):
    """The paper's Table 2: other class lists, other splits, the same students, one table."""
    others = {"voc12": tmp_path / "other/voc", "pascal_context": tmp_path / "other/context"}
    for name, root in others.items():
        PIECES[name](root, seed=3)
    sets = [f"evaluation.sets.{name}.root={root}" for name, root in others.items()]
    _, splits, _, (evaluated,), compared = run_all(
        "coco_stuff164k", "variants=[backbones/segformer_b0]", *sets, "evaluation.sets.voc12.templates=single"
    )
    rows = {name: check_rows(evaluated, splits, name, name) for name in ("coco_stuff164k", *others)}
    assert [row.dataset for row in compared.rows] == ["coco_stuff164k", "voc12", "pascal_context"]
    assert {name: row.gamma for name, row in rows.items()} == {"coco_stuff164k": 1.5, "voc12": 0, "pascal_context": 0}
    page = fetch(compared.report).read_text(encoding="utf-8")
    assert "on voc12" in page
    assert "on pascal_context" in page
    assert {"train"} == {name.partition("-")[0] for name in splits.own.objects} - {"val"}
    assert all(name.startswith("val") for other in splits.others.values() for name in other.objects)
    from mlflow import MlflowClient

    metrics = MlflowClient().get_run(rows["voc12"].mlflow_run_id).data.metrics
    assert metrics["voc12/hiou"] == pytest.approx(rows["voc12"].hiou)
    assert metrics["hiou"] == pytest.approx(rows["coco_stuff164k"].hiou)
