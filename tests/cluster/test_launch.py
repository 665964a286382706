"""The train step that starts a TrainJob, with a cluster whose workers write to the same store."""

import threading

import pytest
from quick_pace import Quick

from cliptea import settings, variant_groups
from cliptea.board import posting, status_key
from cliptea.cluster.job_settings import JobSettings, Passed
from cliptea.cluster.kubernetes_api import ClusterError
from cliptea.errors import ConfigError
from cliptea.manifest import Contents, Manifest, Output, find, publish
from cliptea.run import Run, expand
from cliptea.sealed import unseal
from cliptea.steps.launch import launch_variant
from cliptea.steps.split import Splits
from cliptea.steps.teacher import TeacherCache
from cliptea.steps.train import TrainInputs, train_variant
from cliptea.storage import open_store
from cliptea.teacher.outputs import clustering_key
from cliptea.training import torchrun

SETTINGS = JobSettings.model_validate({"image": "i:1", "nodes": 2.0, "restarts": 0})  # KFP sends floats


def changed(**settings):
    return JobSettings.model_validate(SETTINGS.model_dump() | settings)


def launched(inputs, settings=SETTINGS):
    return launch_variant(inputs, settings, Passed(), Quick)


def relabelled(inputs, label, seed=0, **of_run):
    variant = inputs.variant.model_copy(update={"label": label, "seed": seed})
    return inputs.model_copy(update={"variant": variant, "run": inputs.run.model_copy(update=of_run)})


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """Of one student; what they name need not be there."""
    monkeypatch.setenv("CLIPTEA_STORE", (tmp_path / "store").as_uri())
    config = settings.load("smoke", ["variants=[table3/full]", "train.batch_size=4"])
    run = Run(config=config, data_digest="d", fingerprint="f", job_id="j", tracking_run="t", variants=expand(config))
    variant = run.variants[0]
    part = Manifest(kind="k", fingerprint="0")
    clustering = clustering_key(variant.config.method.clustering)
    teacher = TeacherCache(tokens=part, regions={clustering: part}, text={config.data.dataset: part})
    return TrainInputs(run=run, variant=variant, splits=Splits(own=part), teacher=teacher)


def trained(server):
    """What the worker does: it reads what was handed over, and leaves a model."""
    (job,) = server.jobs.values()
    key = job["spec"]["trainer"]["command"][-1]
    handed = unseal(open_store().get(key), TrainInputs)
    kind, fingerprint, _ = key.split("/")
    publish(open_store(), Output(kind, fingerprint), Contents({}, {"seed": handed.variant.seed}))
    server.end("Complete")


def test_a_student_is_trained_once(kubernetes, inputs):
    kubernetes.play = trained
    first = launched(inputs)
    assert first == launched(inputs)
    assert (len(kubernetes.created), kubernetes.jobs) == (1, {})
    assert kubernetes.created[0]["spec"]["trainer"]["numNodes"] == 2
    assert find(open_store(), Output("train", first.fingerprint)) is not None
    assert [entry.key for entry in open_store().entries("train")] == [f"train/{first.fingerprint}/manifest.json"]


def test_a_quota_of_one_trainjob_is_enough_for_many_students(kubernetes, inputs):
    kubernetes.quota, kubernetes.play = 1, trained
    for seed in range(3):
        launched(relabelled(inputs, f"table3/full seed {seed}", seed), changed(pending_seconds=1))
    assert (len(kubernetes.created), kubernetes.jobs) == (3, {})


def test_a_done_trainjob_that_cannot_be_deleted_is_no_failure(kubernetes, inputs, capfd):
    kubernetes.play, kubernetes.denied = trained, {("delete", "trainjobs")}
    first = launched(inputs)
    assert "the completed TrainJob" in capfd.readouterr().err
    assert first == launched(inputs)
    assert len(kubernetes.created) == 1


def test_the_handed_over_inputs_are_those_that_training_reads(kubernetes, inputs):
    read = []

    def look(server):
        (job,) = server.jobs.values()
        read.append(unseal(open_store().get(job["spec"]["trainer"]["command"][-1]), TrainInputs))
        trained(server)

    kubernetes.play = look
    launched(inputs)
    assert read[0].model_copy(update={"follower": None}) == inputs
    assert read[0].follower.seconds == 900


def test_runs_of_equal_settings_keep_their_inputs_apart(kubernetes, inputs):
    """One that is cancelled, or done, takes nothing away from the other: they share the model alone."""
    kubernetes.play = lambda server: server.end("Failed")
    with pytest.raises(ClusterError):
        launched(inputs)
    kubernetes.jobs.clear()
    kubernetes.play = trained
    launched(relabelled(inputs, inputs.variant.label, job_id="other"))
    key = kubernetes.created[0]["spec"]["trainer"]["command"][-1]
    left = unseal(open_store().get(key), TrainInputs)
    assert left.run.job_id == "j"
    assert left.follower.key == status_key("j", "train", left.variant.label)


def test_local_runs_of_equal_settings_keep_their_inputs_apart(inputs, monkeypatch):
    """The second begins, and ends, while the first is at work."""
    config = variant_groups.apply_delta(inputs.variant.config, {"train": {"processes": 2}})
    first = inputs.model_copy(update={"variant": inputs.variant.model_copy(update={"config": config})})
    second, read = relabelled(first, first.variant.label, job_id="other"), []

    def start(module, key, processes):
        if not read:
            read.append(None)
            with pytest.raises(AssertionError):  # it left no model
                train_variant(second)
        read.append(unseal(open_store().get(key), TrainInputs).run.job_id)

    monkeypatch.setattr(torchrun, "start", start)
    with pytest.raises(AssertionError):
        train_variant(first)
    assert read == [None, "other", "j"]
    assert list(open_store().entries("train")) == []


def test_training_looks_for_this_steps_own_status_on_the_board(kubernetes, inputs):
    """What the step writes while it follows, written here by the board itself."""
    read = []

    def look(server):
        (job,) = server.jobs.values()
        read.append(unseal(open_store().get(job["spec"]["trainer"]["command"][-1]), TrainInputs))
        trained(server)

    kubernetes.play = look
    with posting(open_store(), inputs.run.job_id, "train", inputs.variant.label):
        launched(inputs, changed(abandoned_seconds=123.0))
    assert open_store().size(read[0].follower.key) > 0
    assert read[0].follower.seconds == 123


def test_the_owner_is_waited_for_when_the_api_is_away(kubernetes, inputs, monkeypatch):
    """Without it, the TrainJob would outlive its pipeline run."""
    monkeypatch.setenv("KFP_POD_NAME", "step")
    monkeypatch.setenv("CLIPTEA_PATIENCE", "20")
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "u"}
    kubernetes.pods = [{"metadata": {"name": "step", "ownerReferences": [owner]}}]
    kubernetes.play, kubernetes.away = trained, 503
    threading.Timer(0.3, setattr, (kubernetes, "away", None)).start()
    launched(inputs)
    assert kubernetes.created[0]["metadata"]["ownerReferences"] == [owner]


def test_the_trainjob_goes_with_the_pipeline_runs_workflow(kubernetes, inputs, monkeypatch):
    monkeypatch.setenv("KFP_POD_NAME", "step")
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "u"}
    references = [owner | {"controller": True, "blockOwnerDeletion": True}]
    kubernetes.pods = [{"metadata": {"name": "step", "ownerReferences": references}}]
    kubernetes.play = trained
    launched(inputs)
    assert kubernetes.created[0]["metadata"]["ownerReferences"] == [owner]


def test_a_trainjob_that_leaves_no_model_is_a_failure_and_not_adopted(kubernetes, inputs):
    kubernetes.play = lambda server: server.end("Complete")
    with pytest.raises(
        ClusterError, match=r"left no model under file://.*; expected training pods that write to the same"
    ):
        launched(inputs)
    assert kubernetes.jobs == {}


def test_processes_that_cannot_share_a_batch(kubernetes, inputs):
    with pytest.raises(
        ConfigError,
        match=r"batch_size=4 cannot be divided into 3 equal parts \(3 nodes of 1 process\); expected a multiple of 3",
    ):
        launched(inputs, changed(nodes=3))
    assert kubernetes.created == []
