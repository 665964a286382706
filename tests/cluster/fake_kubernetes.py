"""A small Kubernetes API server: TrainJobs and what a controller would make of them, as a test tells.

What it is sent must be valid: a TrainJob goes through the models of kubeflow-trainer-api and must come out the same.
What it sends goes through the models of the kubernetes client. It records every request as (verb, group, resource).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubeflow_trainer_api import models
from kubernetes.client import ApiClient

GROUP = "trainer.kubeflow.org"
JOBS = re.compile(rf"/apis/{GROUP}/v1alpha1/namespaces/([^/]+)/trainjobs(?:/([^/]+))?$")
CORE = re.compile(r"/api/v1/namespaces/([^/]+)/(pods|events|secrets|serviceaccounts)(?:/([^/]+))?(/log)?$")
RUNTIMES = re.compile(
    rf"/apis/{GROUP}/v1alpha1/(?:namespaces/[^/]+/)?(trainingruntimes|clustertrainingruntimes)/([^/]+)$"
)
VERBS = {"GET": "get", "POST": "create", "DELETE": "delete"}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class FakeKubernetes:
    """The server; `play` is called with it at every look at a TrainJob, and changes what the next answers show."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.logs: dict[str, list[str]] = {}
        self.objects: dict[str, dict[str, Any]] = {}  # path -> what else there is
        self.requests: list[tuple[str, str, str]] = []
        self.created: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.denied: set[tuple[str, str]] = set()  # (verb, resource)
        self.away = False
        self.play: Callable[[FakeKubernetes], None] = lambda server: None
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

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

    def end(self, kind: str, message: str = "") -> None:
        """Give every TrainJob the condition `kind`."""
        condition = {"type": kind, "status": "True", "reason": kind, "message": message, "lastTransitionTime": now()}
        for job in self.jobs.values():
            job.setdefault("status", {}).setdefault("conditions", []).append(condition)

    def pod(self, name: str, phase: str = "Running", index: int = 0, **status: Any) -> None:
        """Show a pod of the (only) TrainJob, in place of one of its name."""
        (job,) = self.jobs
        labels = {
            "jobset.sigs.k8s.io/jobset-name": job,
            "jobset.sigs.k8s.io/replicatedjob-name": "node",
            "jobset.sigs.k8s.io/job-index": "0",
            "batch.kubernetes.io/job-completion-index": str(index),
        }
        metadata = {"name": name, "labels": labels, "creationTimestamp": now()}
        self.pods = [pod for pod in self.pods if pod["metadata"]["name"] != name]
        self.pods.append(_valid({"metadata": metadata, "status": {"phase": phase, **status}}, "V1Pod"))

    def event(self, reason: str, message: str, name: str | None = None) -> None:
        about = {"kind": "Pod", "name": name or f"{next(iter(self.jobs))}-node-0", "namespace": "team"}
        event = {"metadata": {"name": f"e{len(self.events)}"}, "involvedObject": about, "type": "Warning"}
        self.events.append(
            _valid(event | {"reason": reason, "message": message, "lastTimestamp": now()}, "CoreV1Event")
        )

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        if self.away:
            return 503, _status(503, "the server is currently unable to handle the request")
        found = JOBS.match(path) or CORE.match(path)
        if found is None:
            return self._other(method, path, body)
        kind = "trainjobs" if JOBS.match(path) else found[2] + (found[4] or "") if CORE.match(path) else ""
        name = found[2] if kind == "trainjobs" else found[3]
        verb = "list" if method == "GET" and name is None else VERBS[method]
        self.requests.append((verb, GROUP if kind == "trainjobs" else "", kind))
        if (verb, kind) in self.denied:
            return 403, _status(403, f"{kind} is forbidden: User cannot {verb} resource")
        if kind == "trainjobs":
            return self._train_jobs(verb, name, body)
        return self._core(verb, kind, path, name, query)

    def _train_jobs(self, verb: str, name: str | None, body: Any) -> tuple[int, Any]:
        if verb == "create":
            name = body["metadata"]["name"]
            if name in self.jobs:
                return 409, _status(409, f'trainjobs "{name}" already exists')
            same = models.TrainerV1alpha1TrainJob.from_dict(body).to_dict()
            if same != body:
                return 422, _status(422, "unknown or wrong fields")
            self.jobs[name] = json.loads(json.dumps(body))
            self.jobs[name]["metadata"]["creationTimestamp"] = now()
            self.created.append(body)
            return 201, self.jobs[name]
        if name not in self.jobs:
            return 404, _status(404, f'trainjobs "{name}" not found')
        if verb == "delete":
            self.deleted.append(name)
            self.pods, self.events = [], []
            return 200, self.jobs.pop(name)
        self.play(self)
        return 200, self.jobs[name]

    def _core(self, verb: str, kind: str, path: str, name: str | None, query: dict[str, list[str]]) -> tuple[int, Any]:
        if kind == "pods/log":
            if name not in self.logs:
                return 400, _status(400, "container is waiting to start: ContainerCreating")
            return 200, "".join(f"{line}\n" for line in self.logs[name])
        if verb == "list" and kind == "pods":
            key, _, value = query.get("labelSelector", [""])[0].partition("=")
            field = query.get("fieldSelector", [""])[0].removeprefix("metadata.name=")
            items = [
                p
                for p in self.pods
                if p["metadata"].get("labels", {}).get(key) == value or p["metadata"]["name"] == field
            ]
            return 200, {"kind": "PodList", "apiVersion": "v1", "items": items}
        if verb == "list" and kind == "events":
            return 200, {"kind": "EventList", "apiVersion": "v1", "items": self.events}
        if path in self.objects:
            return 200, self.objects[path]
        return 404, _status(404, f'{kind} "{name}" not found')

    def _other(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews":
            wanted = body["spec"]["resourceAttributes"]
            resource = wanted["resource"] + (f"/{wanted['subresource']}" if wanted.get("subresource") else "")
            allowed = (wanted["verb"], resource) not in self.denied
            return 201, {**body, "status": {"allowed": allowed}}
        found = RUNTIMES.match(path)
        if path in self.objects or found is None:
            return (200, self.objects[path]) if path in self.objects else (404, "404 page not found\n")
        return 404, _status(404, f'{found[1]} "{found[2]}" not found')


def _handler(fake: FakeKubernetes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            url = urlsplit(self.path)
            code, answer = fake.answer(self.command, url.path, parse_qs(url.query), body)
            data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _serve

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _valid(item: dict[str, Any], model: str) -> dict[str, Any]:
    """The object, which must be one of the kubernetes client's models."""
    client = ApiClient()
    same = client.sanitize_for_serialization(client.deserialize(SimpleNamespace(data=json.dumps(item)), model))
    assert _untimed(same) == _untimed(item)
    return item


def _untimed(item: Any) -> str:
    return re.sub(r"(\d\d:\d\d:\d\d)(\+00:00|Z)", r"\1", json.dumps(item, sort_keys=True))


def _status(code: int, message: str) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}
