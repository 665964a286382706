"""`cliptea doctor`, from nothing configured to everything there."""

import json
import time
from http.server import BaseHTTPRequestHandler

import pytest
from doctor_lines import TRAINER, doctor, secret
from small_servers import served
from typer.testing import CliRunner

from cliptea.cluster.kubernetes_api import RIGHTS
from cliptea_pipeline.checks import OK, Finding
from cliptea_pipeline.cli import app
from cliptea_pipeline.doctor import examine

pytestmark = pytest.mark.usefixtures("bare")


def test_nothing_is_configured():
    code, lines = doctor()
    assert code == 0
    assert {what: found[0][0] for what, found in lines.items()} == dict.fromkeys(
        ("store", "MLflow", "Pipelines", "Kubernetes"), "cannot tell"
    )
    assert all("not configured" in text for found in lines.values() for _, text in found)


def test_a_store_is_written_read_and_left_clean(monkeypatch, tmp_path):
    monkeypatch.setenv("CLIPTEA_STORE", (tmp_path / "store").as_uri())
    code, lines = doctor()
    assert (code, lines["store"][0][0]) == (0, "ok")
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_a_folder_that_a_run_would_refuse_is_not_written_to(monkeypatch, tmp_path):
    (tmp_path / "notes.txt").write_text("precious")
    monkeypatch.setenv("CLIPTEA_STORE", tmp_path.as_uri())
    code, lines = doctor()
    assert (code, lines["store"][0][0]) == (1, "missing")
    assert "holds files that are not from cliptea" in lines["store"][0][1]
    assert not (tmp_path / "doctor").exists()


def test_a_store_that_is_not_there_or_has_no_credentials(monkeypatch):
    monkeypatch.setenv("CLIPTEA_STORE", "s3://bucket/folder")
    monkeypatch.setenv("CLIPTEA_S3_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    start = time.monotonic()
    code, lines = doctor()
    assert (code, lines["store"][0][0]) == (1, "missing")
    assert "S3 cannot be reached at http://127.0.0.1:9" in lines["store"][0][1]
    assert "hush" not in str(lines)
    assert time.monotonic() - start < 20


def test_servers_that_are_not_there(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hush@127.0.0.1:9")
    monkeypatch.setenv("KFP_ENDPOINT", "http://127.0.0.1:9")
    code, lines = doctor()
    assert (code, lines["MLflow"][0][0], lines["Pipelines"][0][0]) == (1, "missing", "missing")
    assert "hush" not in str(lines)


def test_servers_that_refuse_and_accept(monkeypatch, pipelines, mlflow):
    pipelines.token = "t"
    monkeypatch.setenv("KFP_ENDPOINT", pipelines.url)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow)
    code, lines = doctor()
    assert (code, lines["Pipelines"][0][1][-13:]) == (1, "set KFP_TOKEN")
    assert "denies access (401)" in lines["MLflow"][0][1]
    monkeypatch.setenv("KFP_TOKEN", "t")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t")
    code, lines = doctor()
    assert (code, lines["Pipelines"][0][0], lines["MLflow"][0][0]) == (0, "ok", "ok")


def test_pipelines_of_several_users(monkeypatch, pipelines):
    pipelines.multi_user = True
    monkeypatch.setenv("KFP_ENDPOINT", pipelines.url)
    code, lines = doctor()
    assert (code, lines["Pipelines"][0][0]) == (1, "missing")
    assert "is in multi-user mode: add --namespace" in lines["Pipelines"][0][1]
    code, lines = doctor("--namespace", "team")
    assert (code, lines["Pipelines"][0][0]) == (0, "ok")


@pytest.fixture
def mlflow():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.headers.get("Authorization") == "Bearer t" else 401)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"experiments": []}')

    with served(Handler) as address:
        yield address


@pytest.fixture
def placement(tmp_path):
    file = tmp_path / "placement.yaml"
    wanted = {"launcher": "trainjob", "image_pull_secrets": ["pull"], "steps": {"train": {"gpus": 8}}}
    file.write_text(json.dumps(wanted))
    return "--placement", str(file)


def test_everything_is_there(cluster, placement):
    code, lines = doctor(*placement)
    states = {
        what: {state for state, _ in found}
        for what, found in lines.items()
        if what not in ("store", "MLflow", "Pipelines")
    }
    looked_at = {"Kubernetes", "Trainer", "runtime", "rights", "settings", "secret", "image pull", "GPU nodes", "quota"}
    looked_at |= {"retries", "size"}
    assert (code, states) == (0, {what: {"ok"} for what in looked_at})
    assert "12 nvidia.com/gpu on 2 of 3 nodes" in lines["GPU nodes"][0][1]
    assert "aHVzaA" not in str(lines)


@pytest.mark.parametrize(
    ("path", "what", "text"),
    [
        (TRAINER, "Trainer", "Kubeflow Trainer 2 is not installed"),
        (
            f"{TRAINER}/namespaces/team/trainingruntimes/cliptea-torch",
            "runtime",
            "TrainingRuntime cliptea-torch does not exist",
        ),
        ("/api/v1/namespaces/team/secrets/pull", "image pull", "secret pull does not exist"),
    ],
)
def test_what_is_missing_is_named(cluster, placement, path, what, text):
    del cluster.objects[path]
    code, lines = doctor(*placement)
    assert (code, lines[what][0][0]) == (1, "missing")
    assert text in lines[what][0][1]
    assert doctor()[0] == 0  # by the launcher torchrun it is not needed


@pytest.mark.parametrize(
    ("node", "state", "says"),
    [
        ({}, "ok", "8 nvidia.com/gpu on 1 of 2 nodes, enough for train"),
        ({"status": {"allocatable": {}}}, "missing", "0 nvidia.com/gpu on 0 of 2 nodes, but train needs 1 node with 8"),
        (
            {"spec": {"unschedulable": True}},
            "missing",
            "8 nvidia.com/gpu on 1 of 2 nodes, but train needs 1 node with 8",
        ),
        (
            {"metadata": {"labels": {"gpu": "t4"}}},
            "missing",
            "train needs 1 node with 8 and the labels {'gpu': 'a100'}",
        ),
    ],
)
def test_gpus_that_the_placement_asks_for(cluster, tmp_path, node, state, says):
    able = {"metadata": {"labels": {"gpu": "a100"}}, "status": {"allocatable": {"nvidia.com/gpu": "8"}}}
    cluster.objects["/api/v1/nodes"]["items"] = [{"metadata": {"labels": {"gpu": "a100"}}, "status": {}}, able | node]
    wanted = {"launcher": "trainjob", "steps": {"train": {"gpus": 8, "node_selector": {"gpu": "a100"}}}}
    (tmp_path / "p.yaml").write_text(json.dumps(wanted))
    code, lines = doctor("--placement", str(tmp_path / "p.yaml"))
    assert (code, lines["GPU nodes"][0][0]) == (int(state != "ok"), state)
    assert says in lines["GPU nodes"][0][1]


def test_a_placement_that_asks_for_no_gpu(cluster):
    cluster.objects["/api/v1/nodes"]["items"] = [{"status": {"allocatable": {}}}]
    code, lines = doctor()
    assert (code, lines["GPU nodes"]) == (0, [("ok", "0 nvidia.com/gpu on 0 of 1 nodes; the placement asks for none")])


@pytest.mark.parametrize("right", RIGHTS)
def test_each_right_that_is_lacking_is_named(cluster, placement, right):
    cluster.denied = {(right.verb, right.resource)}
    code, lines = doctor(*placement)
    assert code == 1
    assert f"you may not {right.verb} {right.resource} in team" in lines["rights"][0][1]


@pytest.mark.parametrize(("name", "code"), [("cliptea-s3", 1), ("cliptea-mlflow", 1), ("cliptea-webhook", 0)])
def test_an_absent_secret_is_a_failure_unless_it_is_optional(cluster, tmp_path, name, code):
    del cluster.objects[f"/api/v1/namespaces/team/secrets/{name}"]
    found, lines = doctor()
    (line,) = [(state, text) for state, text in lines["secret"] if f"secret {name} does not exist: create it" in text]
    assert (found, line[0]) == (code, "missing" if code else "cannot tell")
    (tmp_path / "p.yaml").write_text(f"secrets: {{{name}: []}}")
    assert doctor("--placement", str(tmp_path / "p.yaml"))[0] == 0


def test_an_empty_secret_is_a_failure(cluster):
    cluster.objects["/api/v1/namespaces/team/secrets/cliptea-s3"] = secret("key")
    assert doctor()[0] == 1


def test_a_config_map_that_is_missing_or_names_no_store(cluster, tmp_path):
    cluster.objects["/api/v1/namespaces/team/configmaps/cliptea"]["data"].pop("CLIPTEA_STORE")
    code, lines = doctor()
    assert (code, "has no CLIPTEA_STORE" in lines["settings"][0][1]) == (1, True)
    del cluster.objects["/api/v1/namespaces/team/configmaps/cliptea"]
    code, lines = doctor()
    assert (code, "config map cliptea does not exist" in lines["settings"][0][1]) == (1, True)
    (tmp_path / "p.yaml").write_text("store: s3://bucket/store")
    assert "settings" not in doctor("--placement", str(tmp_path / "p.yaml"))[1]


def test_an_open_image_is_not_known_to_be_there(cluster):
    assert doctor()[1]["image pull"][0][0] == "cannot tell"


@pytest.mark.parametrize(
    ("given", "what", "says"),
    [
        ({"train_job": {"nodes": 3}, "steps": {"train": {"gpus": 4}}}, "GPU nodes", "but train needs 3 nodes with 4"),
        (
            {"parallel": 3, "steps": {"train": {"gpus": 4}}},
            "quota",
            "each student needs 4, 3 at a time: set parallel: 2",
        ),
        (
            {"train_job": {"nodes": 3}, "steps": {"train": {"gpus": 4}}},
            "quota",
            "each student needs 12, 1 at a time: rai",
        ),
    ],
)
def test_students_that_have_no_room(cluster, tmp_path, given, what, says):
    (tmp_path / "p.yaml").write_text(json.dumps({"launcher": "trainjob"} | given))
    code, lines = doctor("--placement", str(tmp_path / "p.yaml"))
    assert (code, lines[what][0][0]) == (1, "missing")
    assert says in lines[what][0][1]


def test_the_namespace_of_the_environment_is_that_of_kubernetes(cluster, monkeypatch):
    monkeypatch.setenv("KFP_NAMESPACE", "other")
    assert "namespace other" in doctor()[1]["Kubernetes"][0][1]


@pytest.mark.parametrize(
    ("status", "state", "says"),
    [
        (0, "missing", "the API does not answer: check KUBECONFIG, and whether the cluster is running"),
        (401, "missing", "the API denies access (401): check KUBECONFIG, or log in again"),
        (503, "not ready", "the API answers 503: it is starting or failing; wait a minute"),
    ],
)
def test_a_cluster_that_does_not_answer_is_one_line(cluster, placement, status, state, says):
    if status:
        cluster.away = status
    else:
        cluster.close()
    start = time.monotonic()
    code, lines = doctor(*placement)
    assert (code, lines["Kubernetes"]) == (1, [(state, says)])
    assert lines.keys() == {"store", "MLflow", "Pipelines", "Kubernetes"}
    assert time.monotonic() - start < 20


def test_checks_that_hang_or_break_do_not_stop_the_others():
    def hangs():
        time.sleep(5)
        yield Finding("a", OK, "")

    def breaks():
        raise KeyError("x")
        yield

    def works():
        yield Finding("b", OK, "")

    start = time.monotonic()
    found = list(examine([hangs, breaks, works], 0.3))
    assert time.monotonic() - start < 3
    assert [(finding.what, finding.state) for finding in found][2] == ("b", OK)
    assert [finding.state for finding in found[:2]] == ["cannot tell"] * 2


KUEUE = "/apis/kueue.x-k8s.io/v1beta2"
QUEUED = {"steps": {"train": {"labels": {"kueue.x-k8s.io/queue-name": "gpu"}}}}


def local_queue(active):
    """A LocalQueue as Kueue shows it."""
    condition = {"type": "Active", "status": str(active), "message": "Can't submit new workloads to clusterQueue"}
    return {"apiVersion": KUEUE[6:], "kind": "LocalQueue", "status": {"conditions": [condition | {"reason": "r"}]}}


@pytest.mark.parametrize(
    ("found", "state", "says"),
    [
        (local_queue(True), "ok", "LocalQueue gpu exists"),
        (local_queue(False), "not ready", "LocalQueue gpu admits nothing: Can't submit new workloads to clusterQueue"),
        (None, "missing", "LocalQueue gpu does not exist: pods and TrainJobs that name it wait forever; create it, or"),
        ("denied", "cannot tell", "you may not read LocalQueue gpu (403)"),
        ("no Kueue", "cannot tell", "the cluster does not serve kueue.x-k8s.io/v1beta2, so it is not known what the"),
    ],
)
def test_a_queue_that_a_label_names(cluster, tmp_path, found, state, says):
    (tmp_path / "p.yaml").write_text(json.dumps(QUEUED))
    if found != "no Kueue":
        cluster.objects[KUEUE] = {"kind": "APIResourceList", "groupVersion": KUEUE[6:], "resources": []}
    if found == "denied":
        cluster.denied = {("get", "localqueues")}
    elif isinstance(found, dict):
        cluster.objects[f"{KUEUE}/namespaces/team/localqueues/gpu"] = found
    code, lines = doctor("--placement", str(tmp_path / "p.yaml"))
    (line,) = lines["queue"]
    assert (code, line[0]) == (int(state in ("missing", "not ready")), state)
    assert line[1].startswith(says)
    assert "queue" not in doctor()[1]  # the default placement names none


@pytest.mark.parametrize(
    ("found", "state", "says"),
    [
        ("there", "ok", "WorkloadPriorityClass high exists"),
        (
            "absent",
            "missing",
            "WorkloadPriorityClass high does not exist: pods and TrainJobs that name it wait forever",
        ),
        ("denied", "cannot tell", "you may not read WorkloadPriorityClass high (403)"),
    ],
)
def test_a_priority_class_that_a_label_names(cluster, tmp_path, found, state, says):
    labels = QUEUED["steps"]["train"]["labels"] | {"kueue.x-k8s.io/priority-class": "high"}
    (tmp_path / "p.yaml").write_text(json.dumps({"steps": {"train": {"labels": labels}}}))
    cluster.objects[KUEUE] = {"kind": "APIResourceList", "groupVersion": KUEUE[6:], "resources": []}
    cluster.objects[f"{KUEUE}/namespaces/team/localqueues/gpu"] = local_queue(True)
    if found == "denied":
        cluster.denied = {("get", "workloadpriorityclasses")}
    elif found == "there":
        priority = {"apiVersion": KUEUE[6:], "kind": "WorkloadPriorityClass", "value": 1000}
        cluster.objects[f"{KUEUE}/workloadpriorityclasses/high"] = priority
    code, lines = doctor("--placement", str(tmp_path / "p.yaml"))
    queue, (told, text) = lines["queue"]
    assert (code, queue, told) == (int(state == "missing"), ("ok", "LocalQueue gpu exists"), state)
    assert text.startswith(says)


@pytest.mark.parametrize(
    ("gpus", "state", "says"),
    [
        (4, "ok", "8 nvidia.com/gpu, and each student needs 4, at least one at a time"),
        (16, "missing", "each student needs 16, at least one at a time: raise the quota"),
    ],
)
def test_one_student_has_to_fit_into_the_quota_if_others_wait_in_a_queue(cluster, tmp_path, gpus, state, says):
    train = {"gpus": gpus} | QUEUED["steps"]["train"]
    (tmp_path / "p.yaml").write_text(json.dumps({"launcher": "trainjob", "parallel": 32, "steps": {"train": train}}))
    ((told, text),) = doctor("--placement", str(tmp_path / "p.yaml"))[1]["quota"]
    assert told == state
    assert says in text


@pytest.mark.parametrize(
    ("racks", "nodes", "gpus", "state", "says"),
    [
        ("aab", 2, 8, "ok", "enough for train"),
        ("abc", 2, 8, "missing", "but train needs 2 nodes with 8 and the same value of the label rack: change"),
        ("  a", 2, 8, "missing", "but train needs 2 nodes with 8 and the same value of the label rack: change"),
        ("   ", 1, 0, "missing", "but train needs 1 node with the same value of the label rack: change"),
    ],
)
def test_nodes_of_one_rack(cluster, tmp_path, racks, nodes, gpus, state, says):
    """A rack is a letter for each node, or a space for a node without that label."""
    cluster.objects["/api/v1/nodes"]["items"] = [
        {"metadata": {"labels": {"rack": rack} if rack.strip() else {}},
         "status": {"allocatable": {"nvidia.com/gpu": "8"}}}
        for rack in racks
    ]  # fmt: skip
    wanted = {"launcher": "trainjob", "train_job": {"nodes": nodes, "topology_key": "rack"}}
    (tmp_path / "p.yaml").write_text(json.dumps(wanted | {"steps": {"train": {"gpus": gpus}}}))
    ((told, text),) = doctor("--placement", str(tmp_path / "p.yaml"))[1]["GPU nodes"]
    assert told == state
    assert says in text


def test_json_is_one_document_and_the_text_goes_to_stderr(monkeypatch, tmp_path):
    monkeypatch.setenv("CLIPTEA_STORE", (tmp_path / "store").as_uri())
    monkeypatch.setenv("KFP_ENDPOINT", "http://127.0.0.1:9")
    ended = CliRunner().invoke(app, ["doctor", "--json"])
    told = json.loads(ended.stdout)
    assert (ended.exit_code, told["ready"], set(told)) == (1, False, {"ready", "findings"})
    states = {found["check"]: found["state"] for found in told["findings"]}
    assert (states["store"], states["Pipelines"], states["MLflow"]) == ("ok", "missing", "cannot tell")
    lines = [f"{found['state']:11} {found['check']:10} {found['text']}" for found in told["findings"]]
    assert ended.stderr.splitlines() == lines


def test_a_placement_that_is_wrong_leaves_stdout_empty(tmp_path):
    (tmp_path / "p.yaml").write_text("nodes: 2")
    ended = CliRunner().invoke(app, ["doctor", "--json", "--placement", str(tmp_path / "p.yaml")])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: ")
