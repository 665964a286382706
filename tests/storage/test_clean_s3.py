"""`cliptea clean` on a real S3 server: the same as in a folder, whatever else the bucket holds."""

import past_runs
import pytest
from mlflow import MlflowClient
from past_runs import add_run, keys, output
from s3_server import BUCKET
from test_steps_on_s3 import clip, prepare  # noqa: F401  a fixture
from typer.testing import CliRunner

from cliptea.data.datasets import open_dataset
from cliptea.run import Run, expand
from cliptea.steps.planned import planned
from cliptea.storage import open_store
from cliptea.storage.s3_store import S3Store
from cliptea_pipeline.cli import app


@pytest.fixture
def client(environment, tmp_path, store):
    """An MLflow of its own, and the environment of a user whose store is in S3."""
    environment.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    environment.setenv("CLIPTEA_STORE", store.uri("").rstrip("/"))
    environment.delenv("KFP_ENDPOINT", raising=False)
    environment.chdir(tmp_path)
    return MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")


def call(*arguments):
    return CliRunner().invoke(app, ["clean", *arguments])


def test_a_store_in_s3_is_cleaned_without_a_work_directory(client, store, environment):
    old, new = add_run(client, hours=9), add_run(client)
    shared, first, second = output("tokens", 1), output("train", 1), output("train", 2)
    for made in (shared, first, second):
        past_runs.make(store, made)
    past_runs.record(store, old, [shared, first])
    past_runs.record(store, new, [shared, second])
    store.put(f"{first.prefix}/notes.txt", b"mine")
    neighbour = S3Store(BUCKET, f"{store.prefix}-other")
    neighbour.put(f"{first.prefix}/model.safetensors", b"theirs")
    before = keys(store)
    gone = {f"{first.prefix}/{name}" for name in ("manifest.json", *past_runs.FILES["train"])}
    gone |= {key for key in before if key.startswith((f"uses/{old}", f"tracked/{old}", f"untold/{old}", "runs/task-"))}
    gone -= {key for key in before if f"task-{new}" in key}
    assert len(gone) == 3 + 4
    assert call().exit_code == 0
    assert keys(store) == before
    answer = call("--yes")
    assert answer.exit_code == 0, answer.stderr
    assert keys(store) == before - gone
    assert keys(neighbour) == {f"{first.prefix}/model.safetensors"}
    assert past_runs.complete(store)


def test_a_server_that_goes_away_halfway_is_one_line_and_the_next_call_finishes(client, store, proxy, environment):
    run, made = add_run(client), output("train", 1)
    past_runs.make(store, made)
    past_runs.record(store, run, [made])
    environment.setenv("CLIPTEA_PATIENCE", "0")
    proxy.fail("500", 1, "DELETE", past_runs.FILES["train"][0])
    answer = call("--yes", "--keep", "0")
    assert answer.exit_code == 1
    assert answer.stderr.splitlines()[-1].startswith("error: ")
    assert past_runs.complete(store)
    assert keys(store)
    assert call("--yes", "--keep", "0").exit_code == 0
    assert keys(store) == set()


def test_what_split_and_teacher_make_is_what_the_list_of_the_run_names(store, environment, clip):  # noqa: F811
    environment.setenv("CLIPTEA_STORE", store.uri("").rstrip("/"))
    config, *_ = prepare(clip)
    run = Run(config=config, data_digest=open_dataset(config.data).digest(), fingerprint="f", job_id="j",
              tracking_run="t", variants=expand(config))  # fmt: skip
    listed = planned(run)
    made = {tuple(key.split("/")[:2]) for key in keys(open_store())}
    kinds = {kind for kind, _ in made}
    assert kinds == {"split", "tokens", "dense", "regions", "text", "clip-time"}
    assert made == {output for output in map(tuple, listed) if output[0] in kinds}
    assert {kind for kind, _ in listed} == kinds | {"train", "evaluate", "speed"}
