"""All steps of a run in this process, as small as they go."""

import json
import shutil

from cliptea.evaluation.results import METRICS
from cliptea.steps.compare import compare_variants
from cliptea.steps.evaluate import evaluate_variant
from cliptea.steps.promote import promote_best
from cliptea.steps.resolve import start_run
from cliptea.steps.split import log_splits, make_splits
from cliptea.steps.teacher import publish_cache
from cliptea.steps.train import TrainInputs, train_variant
from cliptea.storage import read_uri
from cliptea.storage.marks import MARK

SMALL = [
    "variants=[baselines/full]", "data.world.train_scenes=8", "data.world.val_scenes=4", "train.iterations=2",
    "train.log_every=1", "evaluation.figures=1", "teacher.pretrain.detail_iterations=1",
    "teacher.pretrain.crop_iterations=1", "teacher.pretrain.scene_iterations=1", "teacher.pretrain.scenes=16",
]  # fmt: skip


def run_all(*overrides):
    """The rows that a run of all steps reports, with the store and the MLflow that the environment names."""
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
    return rows


class Place:
    """A store, and the runs that use it."""

    def __init__(self, root, patch):
        self.root, self.patch = root, patch

    def scores(self, *overrides):
        """The scores that a run of all steps reports, by row."""
        self.patch.setenv("CLIPTEA_STORE", self.root.as_uri())
        rows = run_all(*overrides)
        return [{name: row[name] for name in (*METRICS, "per_class", "gamma")} for row in rows]

    def objects(self):
        return sorted(path for path in self.root.rglob("*") if path.is_file() and path.name != MARK)


def copied(place, folder):
    shutil.copytree(place.root, folder, dirs_exist_ok=True)
    return Place(folder, place.patch)
