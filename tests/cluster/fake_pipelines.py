"""A small KFP server: the paths of its v2beta1 API that our commands use, and the one that gives a task's log.

All that it is sent and sends goes through the models of kfp-server-api: unknown or mistyped fields fail. What it says
of a run is a recorded run, played.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api
from replay import cancelled, moment, recorded

CREATED = "2026-01-01T00:{:02}:{:02}Z"  # minute and second, which only rise
PATH = re.compile(r"/apis/v2beta1/(\w+)(?:/([^/:]+))?(?:/(versions))?(?::(\w+))?$")
LOG = re.compile(r"/apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log$")
OWN = {"run_id", "experiment_id", "display_name", "pipeline_version_reference", "runtime_config", "pipeline_spec"}
MODELS = {
    "pipelines": "V2beta1Pipeline",
    "versions": "V2beta1PipelineVersion",
    "experiments": "V2beta1Experiment",
    "runs": "V2beta1Run",
    "recurringruns": "V2beta1RecurringRun",
}
LISTS = {"recurringruns": "recurringRuns", "versions": "pipeline_versions"}
IDS = {
    "pipelines": "pipeline_id",
    "versions": "pipeline_version_id",
    "experiments": "experiment_id",
    "runs": "run_id",
    "recurringruns": "recurring_run_id",
}


class FakePipelines:
    """The server.

    Attributes:
        life: the recorded run that every run goes through.
        looks: after so many looks at a run it is over.
        stuck: the share of its time at which it stays forever, if it does.
        logs: what the pod of a workflow's node printed; of others the log is gone.
        acts: what else happens, an act at each look at a run.
    """

    def __init__(self) -> None:
        self.held: dict[str, list[dict[str, Any]]] = {kind: [] for kind in MODELS}
        self.second = 0
        self.life = recorded("succeeded")
        self.looks = 1
        self.stuck: float | None = None
        self.logs: dict[str, str] = {}
        self.acts: list[Callable[[], object]] = []
        self.looked: dict[str, int] = {}  # looks at each run, and at each since it was asked to end
        self.ending: dict[str, int] = {}
        self.away = 0  # requests that are not answered
        self.token: str | None = None
        self.multi_user = False
        self.wrong: list[str] = []  # what was no valid object, sent or to be sent
        self.uploads: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, method: str, url: str, body: bytes, token: str | None) -> tuple[int, Any]:  # noqa: PLR0911
        path, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
        if self.away:
            self.away -= 1
            return 503, "no healthy upstream"
        if self.token is not None and token != f"Bearer {self.token}":
            return _error(401, "the token is not valid")
        if path == "/apis/v2beta1/healthz":
            return 200, valid({"multi_user": self.multi_user}, "V2beta1GetHealthzResponse")
        if path.endswith(("/upload", "/upload_version")):
            return self._upload(query, body)
        if log := LOG.match(path):
            return self._log(*log.groups())
        found = PATH.match(path)
        if found is None:
            return 404, "404 page not found"
        kind, name, versions, act = found.groups()
        kind = versions or kind
        if method == "GET" and (versions or name is None):
            return self._list(kind, name if versions else None, query)
        if method == "POST" and name is None:
            return self._create(kind, json.loads(body))
        return self._one(method, kind, name, act)

    def _one(self, method: str, kind: str, name: str, act: str | None) -> tuple[int, Any]:
        item = next((item for item in self.held[kind] if item[IDS[kind]] == name), None)
        if item is None:
            return _error(404, f"{kind} {name} not found")
        if act in ("enable", "disable"):
            item |= {"mode": act.upper(), "status": f"{act.upper()}D"}
        if method == "DELETE":
            self.held[kind].remove(item)
        if act == "terminate":
            self.ending.setdefault(name, 0)
        if kind == "runs" and method == "GET":
            return 200, self._run(item, name)  # recorded; to check so many tasks again takes long
        return 200, valid(item, MODELS[kind]) if method == "GET" else {}

    def _run(self, item: dict[str, Any], name: str) -> dict[str, Any]:
        if self.acts:
            self.acts.pop(0)()
        share = self.looked.get(name, 0) / max(self.looks - 1, 1) if self.looks > 1 else 1.0
        if self.stuck is not None:
            share = min(share, self.stuck)
        run = moment(self.life, share)
        if name in self.ending:
            run = cancelled(run, over=self.ending[name] > 0)
            self.ending[name] += 1
        else:
            self.looked[name] = self.looked.get(name, 0) + 1
        tasks = [task | {"run_id": name} for task in run["run_details"]["task_details"]]
        own = {key: value for key, value in item.items() if key in OWN}
        return {k: v for k, v in run.items() if k not in OWN} | own | {"run_details": {"task_details": tasks}}

    def _log(self, run: str, node: str) -> tuple[int, Any]:
        if node in self.logs and any(item["run_id"] == run for item in self.held["runs"]):
            return 200, self.logs[node]
        what = f"failed to read the log of {node}"
        return 500, {"error_message": what, "error_details": what}

    def _create(self, kind: str, body: dict[str, Any]) -> tuple[int, Any]:
        if "max_concurrency" in body:
            body["max_concurrency"] = str(body["max_concurrency"])  # 64 bits, which the server reads as a number, too
        self.second += 1
        item = valid(body, MODELS[kind]) | {
            IDS[kind]: f"{kind}-{len(self.held[kind])}",
            "created_at": CREATED.format(*divmod(self.second, 60)),
        }
        if kind == "pipelines":
            place = item["display_name"], item.get("namespace")
            if any((p["display_name"], p.get("namespace")) == place for p in self.held[kind]):
                return _error(409, f"the pipeline {item['display_name']} already exists")
        if kind == "versions" and any(
            all(v[key] == item[key] for key in ("display_name", "pipeline_id")) for v in self.held[kind]
        ):
            return _error(409, f"the version {item['display_name']} already exists")
        if kind == "experiments" and self.multi_user != bool(item.get("namespace")):
            return self._misplaced()
        if kind == "recurringruns":
            cron = item["trigger"]["cron_schedule"]["cron"]
            if "99" in cron:
                return _error(400, f"Schedule cron is not supported: {cron}")
            item["status"] = f"{body['mode']}D"
        self.held[kind].append(valid(item, MODELS[kind]))
        return 200, item

    def _upload(self, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        name = query["name"][0]
        if b"schemaVersion" not in body:
            return _error(400, "Failed to upload: the pipeline spec is invalid")
        self.uploads.append(name)
        if "pipelineid" in query:
            version = {"pipeline_id": query["pipelineid"][0], "display_name": name}
            return self._create("versions", version)
        where = query.get("namespace", [""])[0]
        code, made = self._create("pipelines", {"display_name": name} | ({"namespace": where} if where else {}))
        if code == 200:
            self._create("versions", {"pipeline_id": made["pipeline_id"], "display_name": name})
        return code, made

    def _misplaced(self) -> tuple[int, Any]:
        wrong = "Namespace is empty" if self.multi_user else "In single-user mode, the namespace must be empty"
        return _error(400, f"Invalid input error: {wrong}")

    def _list(self, kind: str, of: str | None, query: dict[str, list[str]]) -> tuple[int, Any]:
        """One item a page, so that whoever does not ask for the next sees too little."""
        where = query.get("namespace", [""])[0]
        if kind in ("experiments", "recurringruns") and self.multi_user != bool(where):
            return self._misplaced()
        items = [item for item in self.held[kind] if of is None or item["pipeline_id"] == of]
        if kind in ("experiments", "pipelines"):
            items = [item for item in items if item.get("namespace", "") == where]
        for wanted in json.loads(query.get("filter", ["{}"])[0]).get("predicates", []):
            items = [
                item
                for item in items
                if item[wanted["key"]] == (wanted.get("string_value") or wanted.get("stringValue"))
            ]
        first = int(query.get("page_token", ["0"])[0] or 0)
        page: dict[str, Any] = {LISTS.get(kind, kind): items[first : first + 1], "total_size": len(items)}
        page |= {"next_page_token": str(first + 1)} if first + 1 < len(items) else {}
        return 200, valid(page, MODELS[kind].replace("V2beta1", "V2beta1List") + "sResponse")


def _error(code: int, message: str) -> tuple[int, Any]:
    return code, valid({"code": code, "message": message}, "GoogleRpcStatus")


def valid(item: dict[str, Any], model: str) -> dict[str, Any]:
    """The object, which must be one of kfp-server-api's models."""
    client = kfp_server_api.ApiClient()
    same = client.sanitize_for_serialization(client.deserialize(SimpleNamespace(data=json.dumps(item)), model))
    assert _utc(same) == _utc(item), f"{model}: {item} comes back as {same}"
    return item


def _utc(item: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(item).replace("+00:00", "Z"))


def _handler(fake: FakePipelines) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def handle(self) -> None:
            with suppress(ConnectionError):  # the client has gone, and its output is what a test looks at
                super().handle()

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                code, answer = fake.answer(self.command, self.path, body, self.headers.get("Authorization"))
            except Exception as error:
                fake.wrong.append(str(error))
                code, answer = 500, str(error)
            text = isinstance(answer, str)
            data = (answer if text else json.dumps(answer)).encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if text else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _serve

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
