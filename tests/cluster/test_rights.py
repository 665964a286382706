"""The Role of the manifests, as kustomize renders it, grants every request that the code makes, and nothing else."""

import os
import signal

import pytest
from k8s.manifests import OVERLAYS, granted, one, overlay, select
from quick_pace import Quick
from typer.testing import CliRunner

from cliptea.cluster.follow import Cancelled, train
from cliptea.cluster.job import build
from cliptea.cluster.job_settings import JobSettings, Passed
from cliptea.cluster.kubernetes_api import RIGHTS, ClusterError, connect
from cliptea_pipeline.cli import app

TRAINER = "trainer.kubeflow.org"
ROLES = {name: granted(one(overlay(name), "Role", "cliptea-train-step")) for name in OVERLAYS}
OF_STEP = {tuple(right) for right in RIGHTS}
OF_DOCTOR = {("get", TRAINER, "trainingruntimes")}
# Of the component kueue, for `doctor` and for messages of the step that are clearer.
OF_QUEUES = {("get", "kueue.x-k8s.io", "localqueues"), ("list", "kueue.x-k8s.io", "workloads")}


def live(server):
    """All that the train step does: find its workflow, make a TrainJob, follow it, lose and renew it, be cancelled."""

    def play(server):
        server.pod("p0")
        server.logs["p0"] = ["2026-01-01T00:00:00Z one"]
        if len(server.created) == 1:
            server.pod("p0", "Failed", reason="Evicted", message="disk pressure")
            server.end("Failed")
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    server.play = play
    cluster, settings = connect(), JobSettings(image="i:1")
    job = build("j", "g/a", "k", settings, Passed(), cluster.owners("step"))
    with pytest.raises(Cancelled):
        train(cluster, job, settings, Quick)
    assert (len(server.created), len(server.deleted)) == (2, 2)


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_train_step_lives_on_the_role_alone(kubernetes, name):
    kubernetes.granted = ROLES[name]
    live(kubernetes)
    assert set(kubernetes.requests) == OF_STEP  # which is what doctor looks for
    assert ROLES[name] == OF_STEP | OF_DOCTOR


def test_queues_have_a_role_of_their_own_for_the_same_account(tmp_path):
    objects = select(tmp_path, ["kueue"])
    assert granted(one(objects, "Role", "cliptea-queues")) == OF_QUEUES
    ours, other = (one(objects, "RoleBinding", name) for name in ("cliptea-train-step", "cliptea-queues"))
    assert ours["subjects"] == other["subjects"]
    assert other["roleRef"]["name"] == "cliptea-queues"


@pytest.mark.parametrize("right", sorted(OF_STEP), ids=" ".join)
def test_a_role_without_one_of_them_is_noticed(kubernetes, right, capfd):
    kubernetes.granted = ROLES["local"] - {right}
    refusal = f"this service account may not {right[0]} {right[2]} in namespace team"
    if right[2] == "pods/log":  # which only informs
        live(kubernetes)
        assert capfd.readouterr().err.count(refusal) == 1
        return
    with pytest.raises(ClusterError, match=refusal):
        live(kubernetes)


@pytest.mark.parametrize("kind", ["TrainingRuntime", "ClusterTrainingRuntime"])
def test_doctor_in_a_steps_pod_sees_rights_and_runtime(kubernetes, tmp_path, monkeypatch, kind):
    for name in ("CLIPTEA_STORE", "MLFLOW_TRACKING_URI", "KFP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    placement = tmp_path / "placement.yaml"
    placement.write_text(f"launcher: trainjob\nimage_pull_secrets: [pull]\ntrain_job: {{runtime_kind: {kind}}}\n")
    known = [{"name": "trainjobs", "singularName": "trainjob", "kind": "TrainJob", "namespaced": True, "verbs": []}]
    api = f"/apis/{TRAINER}/v1alpha1"
    kubernetes.objects[api] = {"kind": "APIResourceList", "groupVersion": api[6:], "resources": known}
    scope = "/namespaces/team" if kind == "TrainingRuntime" else ""
    runtime = one(overlay("local"), "TrainingRuntime", "cliptea-torch") | {"kind": kind}
    kubernetes.objects[f"{api}{scope}/{kind.lower()}s/cliptea-torch"] = runtime

    objects = select(tmp_path, ["cluster-runtimes"])
    kubernetes.granted = granted(one(objects, "Role", "cliptea-train-step"))
    if kind == "ClusterTrainingRuntime":
        kubernetes.granted |= granted(one(objects, "ClusterRole", "cliptea-cluster-runtimes"))
    ended = CliRunner().invoke(app, ["doctor", "--placement", str(placement)])
    assert ended.exit_code == 0
    for line in (f"ok          runtime    {kind} cliptea-torch exists", "ok          rights     you may create and"):
        assert line in ended.output
    refused = {right for right in kubernetes.requests if not kubernetes.may(*right)}
    engineers = {
        ("get", "", "secrets"),
        ("get", "", "configmaps"),
        ("list", "", "nodes"),
        ("list", "", "resourcequotas"),
    }
    assert refused == engineers  # and not the step's
    assert ended.output.count("cannot tell secret     you may not read") == 3
