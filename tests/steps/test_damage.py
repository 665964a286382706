"""One wrong bit in any object of a finished run never changes a score: it is refused, made anew, or of no matter."""

import json
import random
import shutil

import pytest
import torch

from cliptea import progress
from cliptea.errors import ClipteaError
from cliptea.evaluation.results import METRICS
from cliptea.steps.compare import compare_variants
from cliptea.steps.evaluate import evaluate_variant
from cliptea.steps.promote import promote_best
from cliptea.steps.resolve import start_run
from cliptea.steps.split import log_splits, make_splits
from cliptea.steps.teacher import publish_cache
from cliptea.steps.train import TrainInputs, train_variant
from cliptea.storage import read_uri
from cliptea.tracking.runs import ChildRun

SMALL = [
    "variants=[baselines/full]", "data.world.train_scenes=8", "data.world.val_scenes=4", "train.iterations=2",
    "train.log_every=1", "evaluation.figures=1", "teacher.pretrain.detail_iterations=1",
    "teacher.pretrain.crop_iterations=1", "teacher.pretrain.scene_iterations=1", "teacher.pretrain.scenes=16",
]  # fmt: skip
# What a second run changes, so that it reads the objects of this kind to make others.
READS = {
    "demo-teacher": "teacher.views=2",
    "dense": "method.clustering.rounds=3",
    "train": "evaluation.sweep=[0.25]",
    "split": "train.lr=0.001",
    "tokens": "train.lr=0.001",
    "regions": "train.lr=0.001",
    "text": "train.lr=0.001",
    "evaluate": "promotion.margin=0.1",  # the report is made anew
    "speed": "promotion.margin=0.1",
    "compare": "promotion.margin=0.1",
    "tracked": "promotion.margin=0.1",
    "uses": "promotion.margin=0.1",
}


class Place:
    """A store, and the runs that use it."""

    def __init__(self, root, patch):
        self.root, self.patch = root, patch

    def scores(self, *overrides):
        """The scores that a run of all steps reports, by row."""
        self.patch.setenv("CLIPTEA_STORE", self.root.as_uri())
        run = start_run("smoke", [*SMALL, *overrides], "job")
        splits = make_splits(run)
        log_splits(run, splits)
        cache = publish_cache(run, splits)
        evaluated = []
        for variant in run.variants:
            model = train_variant(TrainInputs(run=run, variant=variant, splits=splits, teacher=cache))
            evaluated.append(evaluate_variant(run, variant, splits, cache, model))
        compared = compare_variants(run, splits, cache, evaluated)
        promote_best(run, compared)
        rows = json.loads(read_uri(compared.results, compared.hashes["results"]))
        assert [row["hiou"] for row in rows] == [row.hiou for row in compared.rows]
        return [{name: row[name] for name in (*METRICS, "per_class", "gamma")} for row in rows]

    def objects(self):
        return sorted(path for path in self.root.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, empty_database):
    """A finished run, and the scores of it and of each second run when nothing is damaged."""
    root, database = tmp_path_factory.mktemp("finished"), shutil.copy(empty_database, tmp_path_factory.mktemp("mlflow"))
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPTEA_EVENTS", str(tmp_path_factory.mktemp("events") / "events"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
        patch.setattr(ChildRun, "log_model", lambda self, files, description: None)  # seconds, and nothing reads it
        place = Place(root, patch)
        wanted = {"": place.scores()}
        for change in dict.fromkeys(READS.values()):
            wanted[change] = copied(place, tmp_path_factory.mktemp("sound")).scores(change)
        yield place, wanted


def copied(place, folder):
    shutil.copytree(place.root, folder, dirs_exist_ok=True)
    return Place(folder, place.patch)


def damaged(data, draw):
    """The data with one wrong bit anywhere, and if it is JSON, with one in a digit of a number."""
    wrong = bytearray(data)
    wrong[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    yield bytes(wrong)
    digits = [place for place, byte in enumerate(data) if byte in b"0123456789"] if data[:1] == b"{" else []
    if digits:
        wrong = bytearray(data)
        wrong[draw.choice(digits)] ^= 1  # another digit
        yield bytes(wrong)


def outcome(place, wanted, path, data, folder, said):
    """What a run says after the object has changed, and what a second run says that reads it; scores never change."""
    kind = path.relative_to(place.root).parts[0]
    copy = copied(place, folder)
    target = copy.root / path.relative_to(place.root)
    target.write_bytes(data)
    said.clear()
    for change in ("", READS[kind]):
        try:
            assert copy.scores(*filter(None, [change])) == wanted[change], f"{path} changed the scores with {change!r}"
        except ClipteaError as error:
            said.append(str(error))
    shutil.rmtree(folder)
    return [line for line in said if "damaged" in line or "sha256" in line]


def walk(place, wanted, paths, tmp_path, monkeypatch):
    """Damage every object in turn. Returns the kinds of which damage was noticed."""
    said, noticed = [], set()
    monkeypatch.setattr(progress, "note", said.append)
    monkeypatch.setattr(progress, "warn", said.append)
    for path in paths:
        draw = random.Random(path.name)
        for number, data in enumerate(damaged(path.read_bytes(), draw)):
            if outcome(place, wanted, path, data, tmp_path / f"{number}", said):
                noticed.add(path.relative_to(place.root).parts[0])
    return noticed


def test_a_wrong_digit_in_what_is_reported_is_noticed(finished, tmp_path, monkeypatch):
    """The manifest with the scores, and the results themselves."""
    place, wanted = finished
    paths = [path for path in place.objects() if path.parts[-3] == "evaluate" and path.name == "manifest.json"]
    paths += [path for path in place.objects() if path.name in ("results.json", "model.safetensors")]
    assert walk(place, wanted, paths, tmp_path, monkeypatch) == {"evaluate", "compare", "train"}


def test_the_teacher_s_weights_are_checked_when_tokens_are_made_from_them(finished, tmp_path, monkeypatch):
    place, wanted = finished
    (weights,) = [path for path in place.objects() if path.name == "open_clip_model.safetensors"]
    assert walk(place, wanted, [weights], tmp_path, monkeypatch) == {"demo-teacher"}


@pytest.mark.long
def test_no_wrong_bit_in_any_object_changes_a_score(finished, tmp_path, monkeypatch):
    place, wanted = finished
    paths = place.objects()
    kinds = {path.relative_to(place.root).parts[0] for path in paths}
    assert kinds == set(READS)
    # A run only writes its list of outputs; `cliptea clean` reads it, and refuses a damaged one.
    assert walk(place, wanted, paths, tmp_path, monkeypatch) == kinds - {"uses"}
