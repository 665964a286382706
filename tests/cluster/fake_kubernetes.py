"""A small Kubernetes API server: TrainJobs and what a controller would make of them, as a test tells.

What it is sent and what it sends must be valid: TrainJobs and runtimes go through the models of kubeflow-trainer-api,
all else through those of the kubernetes client, and must come out the same; `test_recorded` compares them with what a
cluster has answered. It records every request as (verb, group,
resource), as a Role names them, and refuses those that it is not told to grant.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cluster import kubernetes_objects as objects
from kubeflow_trainer_api import models
from kubernetes.client import ApiClient

GROUP = "trainer.kubeflow.org"
# Group, resource, name and what is below it; paths without a resource say what the server knows, to everybody.
PATH = re.compile(r"/apis?/(?:([^/]+\.[^/]+)/)?v\d\w*/(?:namespaces/[^/]+/)?([a-z]+)(?:/([^/]+))?(?:/([a-z]+))?$")
VERBS = {"GET": "get", "POST": "create", "DELETE": "delete", "PUT": "update", "PATCH": "patch"}
REVIEW = ("create", "authorization.k8s.io", "selfsubjectaccessreviews")  # which everybody may
MODELS = {
    "TrainJob": "TrainerV1alpha1TrainJob",
    "TrainJobList": "TrainerV1alpha1TrainJobList",
    "TrainingRuntime": "TrainerV1alpha1TrainingRuntime",
    "ClusterTrainingRuntime": "TrainerV1alpha1ClusterTrainingRuntime",
    "Event": "CoreV1Event",
    "EventList": "CoreV1EventList",
}


class FakeKubernetes:
    """The server; `play` is called with it at every look at a TrainJob that goes on, and changes what it shows."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.workloads: list[dict[str, Any]] = []  # of Kueue
        self.logs: dict[str, list[str]] = {}
        self.objects: dict[str, dict[str, Any]] = {}  # path -> what else there is
        self.requests: list[tuple[str, str, str]] = []
        self.created: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.granted: set[tuple[str, str, str]] | None = None  # rights; None: all
        self.denied: set[tuple[str, str]] = set()  # (verb, resource)
        self.broken: set[str] = set()  # resources that cannot be read: the answer is 500
        self.cut: set[str] = set()  # last parts of paths whose answers break off
        self.lingers = 0.0  # seconds until a deleted TrainJob is gone, with its pods
        self.quota: int | None = None  # how many TrainJobs there may be
        self.refusal = ""  # of an admission webhook or a quota: no TrainJob is created
        self.wrong: list[str] = []  # what was no valid object, sent or to be sent
        self.away: int | None = None  # what all requests are answered with; 0: with nothing
        self.play: Callable[[FakeKubernetes], None] = lambda server: None
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def kubeconfig(self) -> str:
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "team"}}],
                "clusters": [{"name": "c", "cluster": {"server": self.url}}],
                "users": [{"name": "u", "user": {"token": "t0ken"}}],
            }
        )

    def end(self, kind: str, message: str = "", reason: str = "") -> None:
        """Let every TrainJob end: Complete or Failed."""
        for name, job in self.jobs.items():
            first = f"jobset failed due to one or more job failures (first failed job: {name}-node-0)"
            usual = {"Complete": ("AllJobsCompleted", "jobset completed successfully"), "Failed": ("FailedJobs", first)}
            ended = objects.condition(kind, "True", reason or usual[kind][0], message or usual[kind][1])
            job["status"] = objects.status(ended, **{"failed" if kind == "Failed" else "succeeded": 1})

    def suspend(self, on: bool = True) -> None:
        """Suspend every TrainJob, or let it go on."""
        kind = "Suspended" if on else "Resumed"
        found = objects.condition("Suspended", str(on), kind, f"TrainJob is {kind.lower()}")
        for job in self.jobs.values():
            job["spec"]["suspend"] = on
            job["metadata"]["generation"] += 1
            job["status"] = objects.status(found, **({"suspended": 1} if on else {"active": 1, "ready": 1}))

    def queued(self, message: str, *more: dict[str, Any], **spec: Any) -> None:
        """Suspend the (only) TrainJob, and let its queue say why."""
        self.suspend()
        (job,) = self.jobs.values()
        waits = objects.condition("QuotaReserved", "False", "Inadmissible", message)
        self.workloads = [objects.workload(job, waits, *more, **spec)]

    def pod(self, name: str, phase: str = "Running", index: int = 0, **status: Any) -> None:
        """Show a pod of the (only) TrainJob, in place of one of its name."""
        (job,) = self.jobs
        self.gone(name)
        self.pods.append(objects.training_pod(job, name, phase, index, **status))

    def gone(self, *names: str) -> None:
        """Let pods be there no longer, as after `kubectl delete --force`."""
        self.pods = [pod for pod in self.pods if pod["metadata"]["name"] not in names]

    def deleting(self, *names: str) -> None:
        """Let pods be on their way out."""
        self.pods = [objects.deleted(pod) if pod["metadata"]["name"] in names else pod for pod in self.pods]

    def event(self, reason: str, message: str, name: str | None = None, kind: str = "") -> None:
        (job,) = self.jobs
        about = kind or ("TrainJob" if name == job else "Pod")
        self.events.append(objects.event(reason, message, name or f"{job}-node-0", about))

    def may(self, verb: str, group: str, resource: str) -> bool:
        if (verb, group, resource) == REVIEW:
            return True
        granted = self.granted is None or (verb, group, resource) in self.granted
        return granted and (verb, resource) not in self.denied

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        if self.away:
            return self.away, _status(self.away, "the server is currently unable to handle the request")
        found = PATH.match(path)
        if found is None:
            return (200, self.objects[path]) if path in self.objects else (404, "404 page not found\n")
        group, resource, name, below = found[1] or "", found[2], found[3], found[4]
        resource = f"{resource}/{below}" if below else resource
        verb = VERBS[method] if name or method != "GET" else "watch" if "watch" in query else "list"
        self.requests.append((verb, group, resource))
        if not self.may(verb, group, resource):
            kind = f"{resource}.{group}" if group else resource
            return 403, _status(403, f'{kind} is forbidden: User "u" cannot {verb} resource "{resource}" in API group')
        if resource == "trainjobs" and verb != "list":
            return self._train_jobs(verb, name, body)
        if (verb, group, resource) == REVIEW:
            wanted = body["spec"]["resourceAttributes"]
            asked = wanted["resource"] + (f"/{wanted['subresource']}" if wanted.get("subresource") else "")
            return 201, {**body, "status": {"allowed": self.may(wanted["verb"], wanted["group"], asked)}}
        return self._read(verb, resource, path, name, query)

    def _train_jobs(self, verb: str, name: str | None, body: Any) -> tuple[int, Any]:
        if verb == "create":
            full = self.quota is not None and len(self.jobs) >= self.quota
            if self.refusal or full:
                return 403, _status(403, self.refusal or f"exceeded quota: cliptea, limited: {self.quota}")
            name = body["metadata"]["name"]
            if name in self.jobs:
                return 409, _status(409, f'trainjobs "{name}" already exists')
            self.jobs[name] = objects.train_job(json.loads(json.dumps(body)))
            self.created.append(body)
            return 201, self.jobs[name]
        if name not in self.jobs:
            return 404, _status(404, f'trainjobs "{name}" not found')
        if verb == "delete":
            self.deleted.append(name)
            self.pods, self.events = [], []
            job = self.jobs[name]
            if not self.lingers:
                del self.jobs[name]
            elif "deletionTimestamp" not in job["metadata"]:
                self.jobs[name] = job = objects.deleted(job)
                threading.Timer(self.lingers, self.jobs.pop, (name,)).start()
            return 200, job
        if {c["type"] for c in self.jobs[name]["status"].get("conditions", [])}.isdisjoint(("Complete", "Failed")):
            self.play(self)
        return 200, self.jobs[name]

    def _read(self, verb: str, resource: str, path: str, name: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        if resource in self.broken:
            return 500, _status(500, "etcdserver: request timed out")
        if resource == "pods/log":
            waits = 400, _status(400, "container is waiting to start: ContainerCreating")
            return (200, "".join(f"{line}\n" for line in self.logs[name])) if name in self.logs else waits
        listed = {
            "trainjobs": ("TrainJobList", f"{GROUP}/v1alpha1", list(self.jobs.values())),
            "workloads": ("WorkloadList", "kueue.x-k8s.io/v1beta2", self.workloads),
            "pods": ("PodList", "v1", self.pods),
        }
        if verb == "list" and resource in listed:
            kind, version, items = listed[resource]
            found = [item for item in items if _selected(item, query)]
            return 200, {"kind": kind, "apiVersion": version, "metadata": {}, "items": found}
        if (verb, resource) == ("list", "events"):
            return 200, {"kind": "EventList", "apiVersion": "v1", "items": self.events}
        if path in self.objects:
            return 200, self.objects[path]
        return 404, _status(404, f'{resource} "{name}" not found')


def _selected(item: dict[str, Any], query: dict[str, list[str]]) -> bool:
    key, _, value = query.get("labelSelector", [""])[0].partition("=")
    field = query.get("fieldSelector", [""])[0].removeprefix("metadata.name=")
    return item["metadata"].get("labels", {}).get(key) == value or item["metadata"]["name"] == field


def _handler(fake: FakeKubernetes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            if fake.away == 0:
                return
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            url = urlsplit(self.path)
            try:
                valid(body)
                code, answer = fake.answer(self.command, url.path, parse_qs(url.query), body)
                valid(answer)
            except Exception as error:
                fake.wrong.append(str(error))
                code, answer = 422, _status(422, str(error))
            data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
            missing = 9 if url.path.rpartition("/")[2] in fake.cut else 0
            self.send_header("Content-Length", str(len(data) + missing))
            self.end_headers()
            with suppress(ConnectionError):  # whoever asked may have been cancelled
                self.wfile.write(data)

        do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = _serve

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def valid(item: Any) -> None:
    """Fail unless an object is what the model of its kind is, with no field that they do not know."""
    if not isinstance(item, dict) or item.get("apiVersion", "").startswith("kueue."):
        return  # there are no models of Kueue's objects
    kind = item.get("kind", "DeleteOptions")  # whose kind the client leaves out
    model = MODELS.get(kind, f"V1{kind}")
    if model.startswith("Trainer"):
        same = json.loads(json.dumps(getattr(models, model).from_dict(item).to_dict(), default=datetime.isoformat))
    else:
        client = ApiClient()
        same = client.sanitize_for_serialization(client.deserialize(SimpleNamespace(data=json.dumps(item)), model))
    assert _untimed(same) == _untimed(item), f"{kind}: {item} comes back as {same}"


def _untimed(item: Any) -> str:
    return re.sub(r"(\d\d:\d\d:\d\d)(\.\d+)?(\+00:00|Z)", r"\1", json.dumps(item, sort_keys=True))


def _status(code: int, message: str) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}
