"""A bundle gets into a model repository through the library's own client, which speaks to a small hub of this test."""

import base64
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler

import pytest
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import close_session
from small_servers import served
from typer.testing import CliRunner

from cliptea import outage
from cliptea.errors import ClipteaError, ConfigError, ServerAway
from cliptea.models.backbones import NVIDIA
from cliptea.serving import bundle, bundle_folder, model_card, push
from cliptea.storage.marks import claim
from cliptea_pipeline.cli import app

TOKEN = "hf_" + "aB3" * 11 + "x"
NAME = "vision-team/meadows"
TEXT = {"model.onnx": b"network", "README.md": b"---\nlicense: mit\n---\n# Model card\n", "1/model.py": b"triton"}


def blob(content):
    """git's hash of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """What the library asks for while it uploads a folder: create, list, preupload, LFS, commit."""

    address: str
    repositories: dict  # by name: whether it is `private`, its `files`, and how many `commits` it has
    stored: dict  # large files by their sha256
    answers: list  # (part of a path, status): the next request to such a path gets this status and is not done
    seen: list
    large: tuple  # files that go to LFS

    def reply(self, body, status=200):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        self.seen.append((self.command, path))
        planned = next((answer for answer in self.answers if answer[0] in path), None)
        if planned:
            self.answers.remove(planned)
            return self.reply({"error": "so the hub says"}, planned[1])
        if path.startswith("/lfs/"):  # a store with signed addresses, which take no token
            self.stored[path.removeprefix("/lfs/")] = body
            return self.reply({})
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.reply({"error": "Invalid username or password."}, 401)
        return self.answer(path, body)

    def answer(self, path, body):
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            status, private = 409 if name in self.repositories else 200, wanted.get("visibility") == "private"
            self.repositories.setdefault(name, {"private": private, "files": {".gitattributes": b""}, "commits": 0})
            return self.reply({"url": f"{self.address}/{name}"}, status)
        if path == "/api/validate-yaml":
            return self.reply({"warnings": [], "errors": []})
        name, kind = re.fullmatch(r"/(?:api/models/)?([\w-]+/\w+)(?:\.git/info/lfs/objects)?/?(\w*).*", path).groups()
        if name not in self.repositories:
            return self.reply({"error": "Repository not found"}, 404)
        repository = self.repositories[name]
        kinds = {"tree": self.tree, "preupload": self.preupload, "batch": self.batch, "commit": self.commit}
        return self.reply(kinds.get(kind, self.info)(name, repository, repository["files"], body))

    def info(self, name, repository, files, body):
        facts = {"id": name, "sha": f"{repository['commits']:040}", "private": repository["private"]}
        return facts | {"tags": [], "siblings": []}

    def tree(self, name, repository, files, body):
        return [{"type": "file", "path": path, "size": len(text), "oid": blob(text)} for path, text in files.items()]

    def preupload(self, name, repository, files, body):
        asked = [one["path"] for one in json.loads(body)["files"]]
        modes = {path: "lfs" if path in self.large else "regular" for path in asked}
        oids = {path: blob(files[path]) if path in files else None for path in asked}
        return {"files": [{"path": p, "uploadMode": modes[p], "shouldIgnore": False, "oid": oids[p]} for p in asked]}

    def batch(self, name, repository, files, body):
        objects = json.loads(body)["objects"]
        actions = [{"upload": {"href": f"{self.address}/lfs/{one['oid']}"}} for one in objects]
        return {"transfer": "basic", "objects": [o | {"actions": a} for o, a in zip(objects, actions, strict=True)]}

    def commit(self, name, repository, files, body):
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.stored[value["oid"]]
            if line["key"] == "deletedFile":
                del files[value["path"]]
        repository["commits"] += 1
        oid = f"{repository['commits']:040}"
        return {"commitUrl": f"{self.address}/{name}/commit/{oid}", "commitOid": oid}

    do_GET = do_POST = do_PUT = do


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty hub, for which the library of this process has a token."""
    fresh = type("Fresh", (Hub,), {"repositories": {}, "stored": {}, "answers": [], "seen": [], "large": ()})
    with served(fresh) as address:
        fresh.address = address
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(outage, "FIRST_PAUSE", 0.01)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("CLIPTEA_PATIENCE", "0")
        close_session()
        yield fresh
        close_session()


@pytest.fixture
def folder(tmp_path):
    """A bundle's folder, with a file that is not of the bundle."""
    for name, content in {**TEXT, "cliptea.json": b"mark"}.items():
        (tmp_path / "bundle" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bundle" / name).write_bytes(content)
    return tmp_path / "bundle"


def content(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def written(monkeypatch):
    """What the command takes for a bundle, in no time."""
    monkeypatch.setattr(bundle, "bundle_files", lambda *arguments: dict(TEXT))


def call(model, output, *arguments):
    return CliRunner().invoke(app, ["bundle", "--model", str(model), "-o", str(output), *arguments])


@pytest.mark.parametrize("lfs", [False, True])
def test_the_repository_has_the_files_of_the_bundle_and_the_command_tells_its_commit(
    hub, written, model_folder, tmp_path, monkeypatch, lfs
):
    if lfs:  # the way for large files of libraries without xet
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        hub.large = ("model.onnx",)
    answer = call(model_folder, tmp_path / "out", "--push-to-hub", NAME, "--private")
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.splitlines()[-1] == f"uploaded to {hub.address}/{NAME}/commit/{1:040}"
    assert hub.repositories[NAME]["files"] == {**TEXT, ".gitattributes": b""}
    assert hub.repositories[NAME]["private"] is True
    assert list(hub.stored.values()) == ([TEXT["model.onnx"]] if lfs else [])
    assert {name: found for name, found in content(tmp_path / "out").items() if name != "cliptea.json"} == TEXT
    assert TOKEN not in answer.output


def test_another_push_deletes_what_is_for_another_server_and_keeps_the_files_of_others(hub, folder):
    unwanted = bundle_folder.of_other_servers(TEXT)
    kept = {"notes.md": b"mine", ".gitattributes": b"*.onnx", "Dockerfile": unwanted["Dockerfile"] + b"RUN mine\n"}
    old = {"serve_kserve.py": unwanted["serve_kserve.py"], "model.onnx": b"old"}
    hub.repositories[NAME] = {"private": False, "files": kept | old, "commits": 4}
    assert {"Dockerfile", "serve_kserve.py"} <= set(unwanted)
    assert not set(unwanted) & set(TEXT)
    assert push.push(NAME, folder, TEXT, unwanted) == f"{hub.address}/{NAME}/commit/{5:040}"
    assert hub.repositories[NAME]["files"] == kept | TEXT
    assert push.push(NAME, folder, TEXT, unwanted) == f"{hub.address}/{NAME}/commit/{5:040}"  # nothing is new
    assert hub.repositories[NAME]["commits"] == 5


def test_another_bundle_deletes_and_replaces_only_what_a_bundle_has_written(model_folder, tmp_path, monkeypatch):
    def made(segmenter, classes, server, *others):
        common = {name: f"{name} for {server}".encode() for name in bundle_folder.COMMON}
        return common | (bundle_folder.SERVED[server] if server else {})

    monkeypatch.setattr(bundle, "bundle_files", made)
    folder = tmp_path / "out"

    def here():
        return {name: data for name, data in content(folder).items() if name != "cliptea.json"}

    for server in ("kserve", "triton", None, "kserve"):
        answer = call(model_folder, folder, *(["--serving", server] if server else []))
        assert answer.exit_code == 0, answer.output
        assert here() == made(None, None, server)
    (folder / "Dockerfile").write_bytes(b"FROM mine")
    assert call(model_folder, folder).exit_code == 0
    assert here() == made(None, None, None) | {"Dockerfile": b"FROM mine"}
    for arguments, name in ((["--serving", "kserve"], "Dockerfile"), ([], "README.md")):
        (folder / name).write_bytes(b"mine")
        before = content(folder)
        answer = call(model_folder, folder, *arguments)
        assert answer.exit_code == 2, answer.output
        assert f"{folder / name} is not from an earlier bundle, or was changed since; expected" in answer.stderr
        assert (answer.stderr.count("\n"), content(folder)) == (1, before)


@pytest.mark.parametrize(("server", "name"), [("kserve", "inferenceservice.yaml"), ("triton", "config.pbtxt")])
def test_a_manifest_that_the_user_has_completed_is_kept(tmp_path, capsys, server, name):
    first, second = (dict.fromkeys(bundle_folder.COMMON, data) | bundle_folder.SERVED[server] for data in (b"1", b"2"))
    claim(tmp_path, "bundle of a model", "")
    assert {*bundle_folder.write_bundle(tmp_path, first)} == {*first}
    (tmp_path / name).write_bytes(first[name] + b"# mine")
    for files in (second, second):
        bundle_folder.require_replaceable(tmp_path, bundle_folder.names_of_files(server))
        assert {*bundle_folder.write_bundle(tmp_path, files)} == {*files} - {name}
        assert f"{tmp_path / name} was changed, so it is kept" in capsys.readouterr().err
    assert {path: (tmp_path / path).read_bytes() for path in second} == second | {name: first[name] + b"# mine"}


def test_a_file_that_was_changed_while_the_command_worked_is_not_replaced(tmp_path):
    first, second = (dict.fromkeys(bundle_folder.COMMON, data) for data in (b"1", b"2"))
    claim(tmp_path, "bundle of a model", "")
    bundle_folder.write_bundle(tmp_path, first)
    bundle_folder.require_replaceable(tmp_path, bundle_folder.names_of_files(None))
    (tmp_path / "README.md").write_bytes(b"mine")
    before = content(tmp_path)
    with pytest.raises(ConfigError, match=r"README\.md is not from an earlier bundle, or was changed since"):
        bundle_folder.write_bundle(tmp_path, second)
    assert content(tmp_path) == before


def test_a_bundle_that_was_killed_at_any_file_is_replaced_by_the_next(tmp_path, monkeypatch):
    first, second = ({name: f"{name} {turn}".encode() for name in bundle_folder.COMMON} for turn in (1, 2))
    for number in range(len(second)):
        folder, left = tmp_path / str(number), [*range(number)]
        claim(folder, "bundle of a model", "")
        bundle_folder.write_bundle(folder, first)

        def write(file, data, left=left):
            if not left:
                raise KeyboardInterrupt
            left.pop()
            file.write_bytes(data)

        with monkeypatch.context() as patched:
            patched.setattr(bundle_folder, "write_file", write)
            with pytest.raises(KeyboardInterrupt):
                bundle_folder.write_bundle(folder, second)
        bundle_folder.require_replaceable(folder, bundle_folder.names_of_files(None))
        bundle_folder.write_bundle(folder, second)
        assert {name: data for name, data in content(folder).items() if name != "cliptea.json"} == second


def test_a_private_bundle_does_not_get_into_a_public_repository(hub, folder):
    hub.repositories[NAME] = {"private": False, "files": {}, "commits": 0}
    with pytest.raises(ClipteaError, match="exists already, and everybody can read it"):
        push.push(NAME, folder, TEXT, {}, private=True)
    assert hub.repositories[NAME]["files"] == {}


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        (
            ["--push-to-hub", "vision-team/bad name"],
            {},
            "vision-team/bad name cannot be the name of a repository; expected USER/",
        ),
        (["--push-to-hub", "a/b/c"], {}, "cannot be the name of a repository"),
        (["--push-to-hub", "meadows"], {}, "does not say whose repository it is; expected USER/NAME"),
        (
            ["--push-to-hub", NAME],
            {"HF_TOKEN": ""},
            "no token for the hub; expected one that may write; set HF_TOKEN",
        ),
        (["--push-to-hub", NAME], {"HF_TOKEN": f"{TOKEN} {TOKEN}"}, "holds a space or another character"),
        (["--push-to-hub", NAME], {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE forbids"),
        (["--push-to-hub", NAME], {"HF_ENDPOINT": "hub"}, "HF_ENDPOINT=hub is not an address; expected one such as"),
        (["--private"], {}, "--private is given without --push-to-hub; expected both, or neither"),
    ],
)
def test_what_cannot_be_pushed_is_refused_before_any_work(
    hub, model_folder, tmp_path, monkeypatch, arguments, settings, words
):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", "HF_HUB_OFFLINE" in settings)
    monkeypatch.setattr(constants, "ENDPOINT", settings.get("HF_ENDPOINT", hub.address))
    answer = call(model_folder, tmp_path / "out", *arguments)
    assert (answer.exit_code, words in answer.stderr, answer.stderr.count("\n")) == (2, True, 1), answer.output
    assert TOKEN not in answer.output
    assert (hub.seen, (tmp_path / "out").exists()) == ([], False)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("create", 401, "does not accept the token (401); expected a valid one; set HF_TOKEN, or run `hf auth login`"),
        ("preupload", 401, "does not accept the token (401)"),
        ("commit", 403, f"the token may not write to {NAME} at the hub at "),
        ("create", 429, "has received too many requests (429); wait some minutes; run the command again"),
        ("commit", 400, f"refuses the upload to {NAME} (400 Bad Request: so the hub says)"),
        ("preupload", 404, f"refuses the upload to {NAME} (404 Not Found: so the hub says)"),
        ("create", 503, "cannot be reached (503 Service Unavailable); expected a hub at HF_ENDPOINT"),
    ],
)
def test_a_refusal_gets_one_line_and_the_bundle_stays(hub, written, model_folder, tmp_path, path, status, words):
    hub.answers += [(path, status)]
    answer = call(model_folder, tmp_path / "out", "--push-to-hub", NAME)
    assert (answer.exit_code, words in answer.stderr) == (1, True), answer.stderr
    (line,) = [line for line in answer.stderr.splitlines() if line.startswith("error: ")]
    assert line.endswith(f"run the command again; the bundle is complete in {tmp_path / 'out'}")
    assert f"wrote 1/model.py, README.md, model.onnx to {tmp_path / 'out'}\n" in answer.stdout
    assert {name: found for name, found in content(tmp_path / "out").items() if name != "cliptea.json"} == TEXT
    assert TOKEN not in answer.output
    asked = [one for _, one in hub.seen if path in one]
    assert len(asked) == 1  # what cannot succeed is not tried again
    assert set(hub.repositories.get(NAME, {"files": {}})["files"]) <= {".gitattributes"}


def test_a_hub_that_is_away_for_a_moment_is_asked_again(hub, folder, monkeypatch):
    monkeypatch.setenv("CLIPTEA_PATIENCE", "5")
    hub.answers += [("create", 503), ("create", 502)]
    push.push(NAME, folder, TEXT, {})
    assert hub.repositories[NAME]["files"] == {**TEXT, ".gitattributes": b""}
    assert hub.seen.count(("POST", "/api/repos/create")) == 3


@pytest.mark.parametrize("listens", [False, True])
def test_a_hub_that_is_not_there_or_says_nothing_is_named_within_seconds(hub, folder, monkeypatch, listens):
    monkeypatch.setattr(push, "ANSWER_SECONDS", 0.2)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen(8)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        start = time.monotonic()
        with pytest.raises(ServerAway, match=rf"^the hub at {address} cannot be reached \(.+the bundle is complete in"):
            push.push(NAME, folder, TEXT, {})
    assert time.monotonic() - start < 10


def test_address_and_token_come_from_the_variables_and_the_folder_of_the_library(hub, folder, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/token").write_text(TOKEN)
    code = f"from cliptea.serving.push import *; require_pushable('{NAME}'); print(push('{NAME}', {str(folder)!r}, "
    code += f"{list(TEXT)}, {{}}))"
    unset = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"}
    variables = {name: value for name, value in os.environ.items() if name not in unset}
    variables |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
    ended = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    assert ended.stdout == f"{hub.address}/{NAME}/commit/{1:040}\n", ended.stderr
    assert hub.repositories[NAME]["files"] == {**TEXT, ".gitattributes": b""}
    assert TOKEN not in ended.stderr


@pytest.mark.parametrize(
    ("licence", "known"), [("", "unknown"), ("MIT", "mit"), ("apache-2.0", "apache-2.0"), (NVIDIA, "other")]
)
def test_the_hub_reads_the_metadata_of_the_card(licence, known):
    text = model_card.METADATA.format(licence=model_card.hub_licence(licence))
    assert ModelCard(f"{text}\n\n# Model card\n").data.to_dict() == {
        "license": known,
        "pipeline_tag": "image-segmentation",
        "library_name": "onnx",
        "tags": ["cliptea", "onnx", "semantic-segmentation"],
    }
