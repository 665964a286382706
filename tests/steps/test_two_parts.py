"""A run in two parts ends with the comparison that one run has. Every step runs in this process.

The parts are evaluated on two devices, and the one run on one.
"""

import shutil
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from mlflow import MlflowClient

from cliptea import device
from cliptea.errors import ClipteaError
from cliptea.manifest import Output
from cliptea.parts import Part
from cliptea.report.version import COMMANDS, PENDING
from cliptea.steps.compare import compare_variants
from cliptea.steps.evaluate import evaluate_variant
from cliptea.steps.promote import promote_best
from cliptea.steps.resolve import start_run
from cliptea.steps.split import log_splits, make_splits
from cliptea.steps.teacher import publish_cache
from cliptea.steps.train import TrainInputs, train_variant
from cliptea.storage import open_store, read_uri
from cliptea.tracking.kept import Kept
from cliptea.tracking.runs import ChildRun
from cliptea_pipeline.leftovers import find_leftovers, read_lists

SMALL = [
    "variants=[table3/full, table5/mlp]", "seeds=2",
    "data.world.train_scenes=8", "data.world.val_scenes=4", "train.iterations=2", "train.log_every=1",
    "evaluation.figures=1", "teacher.pretrain.detail_iterations=1",
    "teacher.pretrain.crop_iterations=1", "teacher.pretrain.scene_iterations=1", "teacher.pretrain.scenes=16",
]  # fmt: skip
OF_A_RUN = {
    "model_uri",
    "mlflow_run_id",
    "training_images_per_second",
    "inference",
    "telling",
}  # what each training has of its own


@pytest.fixture(scope="module")
def place(tmp_path_factory, empty_database):
    """Stores and databases of MLflow by name: `use` sets the environment, and `run` runs a part there."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("places")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPTEA_EVENTS", str(folder / "events"))
        patch.setattr(ChildRun, "log_model", lambda self, files, description: None)  # seconds, and nothing reads it

        def use(name):
            if not (folder / name).exists():
                (folder / name).mkdir()
                shutil.copy(empty_database, folder / name / "mlflow.db")
            patch.setenv("CLIPTEA_STORE", (folder / name / "store").as_uri())
            patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / name}/mlflow.db")

        def run(name, part, *overrides):
            use(name)
            run = start_run("smoke", [*SMALL, *overrides], f"job {name} {part}", part=part)
            splits = make_splits(run)
            log_splits(run, splits)
            cache = publish_cache(run, splits)
            devices = Mock(return_value=[torch.device("cpu")] * (2 if part else 1))  # simulates several GPUs
            patch.setattr(device, "every", devices)
            evaluated = []
            for variant in run.variants:
                model = train_variant(TrainInputs(run=run, variant=variant, splits=splits, teacher=cache))
                evaluated.append(evaluate_variant(run, variant, splits, cache, model))
            compared = compare_variants(run, splits, cache, evaluated)
            page = read_uri(compared.report, compared.hashes["report"]).decode()
            promotion = promote_best(run, compared)
            return SimpleNamespace(
                run=run,
                splits=splits,
                cache=cache,
                compared=compared,
                page=page,
                promotion=promotion,
                evaluated_on=[len(devices.return_value)] * devices.call_count,
            )

        yield SimpleNamespace(use=use, run=run)


@pytest.fixture(scope="module")
def one(place):
    return place.run("one", "")


@pytest.fixture(scope="module")
def parts(place):
    """The second part runs first: no order is needed."""
    return place.run("parts", "2/2"), place.run("parts", "1/2")


def shown(compared):
    return [row.model_dump(exclude=OF_A_RUN) for row in compared.rows]


def test_the_parts_train_every_student_once_with_its_seed(one, parts):
    second, first = (part.run for part in parts)
    assert [variant.label for variant in first.variants] == ["table3/full seed 0", "table5/mlp seed 0"]
    assert [variant.seed for variant in second.variants] == [1, 1]
    assert [*first.variants, *second.variants] == one.run.variants == first.whole.variants == second.whole.variants
    assert one.run.whole is one.run
    assert len({one.run.fingerprint, first.fingerprint, second.fingerprint}) == 3


def test_the_parts_share_data_and_teacher(one, parts):
    for part in parts:
        assert part.splits.own.fingerprint == one.splits.own.fingerprint
        assert part.cache.tokens.fingerprint == one.cache.tokens.fingerprint
        assert part.cache.regions.keys() == one.cache.regions.keys()


def test_the_part_that_ends_last_has_the_comparison_of_one_run(one, parts):
    _, last = parts
    assert [found.evaluated_on for found in (one, *parts)] == [[1] * 4, [2] * 2, [2] * 2]
    assert shown(last.compared) == shown(one.compared)
    assert (last.compared.best, last.compared.evaluation) == (one.compared.best, one.compared.evaluation)
    assert last.compared.missing == one.compared.missing == []
    for row in one.compared.rows:
        assert (row.label in last.page, row.label in one.page) == (True, True)
    assert "is not complete" not in last.page + one.page
    assert "4 students" in last.page
    models = {row.mlflow_run_id for row in last.compared.rows}
    assert "" not in models
    assert len(models) == 4  # the runs of the students in both parts


def test_only_the_complete_comparison_promotes(one, parts):
    first, last = parts
    assert first.promotion.reason == "not promoted: the results of part 1 of 2 are missing"
    assert (first.promotion.promoted, first.promotion.model) == (False, "")
    assert one.promotion.promoted
    assert last.promotion == one.promotion


def test_a_comparison_that_lacks_parts_says_so(one, parts):
    first, _ = parts
    assert first.compared.missing == [1]
    assert "This comparison is not complete: the results of part 1 of 2 are missing." in first.page
    assert shown(first.compared) == shown(one.compared)[2:]
    for page, whole in ((first.page, False), (parts[1].page, True)):
        assert ("<h2>Best so far: " in page) is not whole
        assert all((text in page) is whole for text in ("<h2>Ship this: ", PENDING, COMMANDS))


def test_a_part_that_runs_again_has_the_whole_comparison(place, parts):
    again = place.run("parts", "2/2")
    assert again.compared.missing == []
    assert shown(again.compared) == shown(parts[1].compared)


def test_mlflow_has_the_time_of_clip_whichever_part_made_the_tokens(place, parts):
    second, first = parts
    assert second.cache.clip.views == second.cache.tokens.info["views"]
    assert first.cache.clip == second.cache.clip
    place.use("parts")
    for part in parts:
        logged = MlflowClient().get_run(part.run.tracking_run).data
        assert logged.metrics["clip_hours"] == pytest.approx(part.cache.clip.seconds / 3600)
        assert logged.tags["clip_device"] == "CPU core"


def test_parts_with_other_settings_are_not_mixed(place, parts):
    other = place.run("parts", "1/2", "train.iterations=3")
    assert other.compared.missing == [2]
    assert {row.iterations for row in other.compared.rows} == {3}
    third = place.run("parts", "1/3")
    assert third.compared.missing == [2, 3]
    assert len(third.compared.rows) == 1


def test_a_part_that_lacks_one_that_has_run_fails_and_names_it(place, parts):
    place.use("parts")
    last = parts[1]
    needing = last.run.model_copy(update={"part": Part(2, 2, "1")})
    with pytest.raises(ClipteaError) as failed:
        promote_best(needing, last.compared.model_copy(update={"missing": [1]}))
    assert "not complete: the results of part 1 of 2 are missing, since data, settings or" in failed.value.what
    assert failed.value.todo == "submit them again: add --parts 1-2"
    assert promote_best(needing, last.compared) == last.promotion


def test_clean_keeps_what_any_part_needs(place, parts):
    """Of a part that is not kept, only its own records and report can be deleted."""
    first, last = parts
    place.use("parts")
    store = open_store()
    kept = Kept({last.run.tracking_run: "newest"}, {})
    leftovers = find_leftovers(store, list(store.entries("")), read_lists(store), kept)
    deleted = {entry.key for group in leftovers.groups for entry in group.entries}
    owners = {group.owner for group in leftovers.groups if isinstance(group.owner, Output)}
    whole = read_lists(store).outputs([last.run.tracking_run])
    assert not owners & whole
    assert {*last.run.parts} <= whole
    assert [output for output in whole if output.kind == "train"] != []
    names = {f"{first.run.parts[1].prefix}/manifest.json", f"{last.run.parts[0].prefix}/manifest.json"}
    assert not names & deleted
    assert any(key.startswith(f"uses/{first.run.tracking_run}/") for key in deleted)
