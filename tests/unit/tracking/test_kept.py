"""Which runs are kept, on a real MLflow with a real registry."""

import time

import past_runs
import pytest
from past_runs import add_run, add_variant, register

from cliptea.errors import ConfigError
from cliptea.tracking.kept import RUNNING, UNLISTED, kept_runs
from cliptea.tracking.run_times import Tag, now, own_end, reopen

UNKNOWN = "0" * 32
CLUSTER = {Tag.KEY: "job-1", Tag.FINGERPRINT: "f", Tag.JOB: "job-1"}


def kept(*ids, newest=0, hours=0.0, jobs=None):
    found = kept_runs(ids, newest, hours * 3600, jobs)
    assert found.whole.keys().isdisjoint(found.models)
    return found.whole


def models(*ids):
    return kept_runs(ids, 0, 0.0, None)


def test_a_running_run_is_kept_and_a_closed_one_is_not(client):
    running, *closed = (add_run(client, status) for status in ("RUNNING", "FINISHED", "FAILED", "KILLED"))
    assert kept(running, *closed) == {running: RUNNING}


def test_the_newest_finished_runs_are_kept_with_all_that_ended_later(client):
    states = ["KILLED", "FINISHED", "FAILED", "FINISHED", "KILLED", "FINISHED"]
    runs = [add_run(client, state, hours) for hours, state in enumerate(states)]
    for newest, number in ((0, 0), (1, 2), (2, 4), (3, 6), (4, 6)):
        assert kept(*runs, newest=newest).keys() == set(runs[:number])


def test_young_runs_are_kept(client):
    runs = [add_run(client, state, hours) for hours, state in ((1, "FINISHED"), (5, "KILLED"), (7, "FINISHED"))]
    assert kept(*runs, hours=6).keys() == set(runs[:2])


@pytest.mark.parametrize("status", ["FINISHED", "KILLED"])
def test_a_run_that_was_started_again_ends_when_it_ends_and_not_when_mlflow_says(client, status):
    other, start = add_run(client, hours=48), round(1000 * (time.time() - 240 * 3600))
    tags = {Tag.KEY: "same", Tag.FINGERPRINT: "same"}
    run_id = client.create_run(client.get_run(other).info.experiment_id, start, tags).info.run_id
    client.set_terminated(run_id, "KILLED", start + 60_000)
    reopen(client, client.get_run(run_id))
    client.set_terminated(run_id, status, own_end(client.get_run(run_id)))
    assert client.get_run(run_id).info.end_time < start + 1000 * 3600  # its duration is the time that it was at work
    newest = {run_id} if status == "FINISHED" else {run_id, other}
    assert kept(run_id, other, newest=1).keys() == newest
    assert kept(run_id, other, hours=1).keys() == {run_id}


def test_the_models_of_every_version_are_kept_and_the_whole_run_of_one_with_an_alias(client):
    by_variant, by_itself, by_source, champion, other = (add_run(client, hours=1000) for _ in range(5))
    variant, further = add_variant(client, by_variant), add_variant(client, by_source)
    register(client, variant, "s3://models/1")
    register(client, add_variant(client, champion), "s3://models/2")
    register(client, by_itself, "s3://models/3", "by-hand")
    register(client, None, f"s3://models/{further}/artifacts/model", "by-hand")
    client.set_registered_model_alias("cliptea-world", "champion", "2")
    found = models(by_variant, by_itself, by_source, champion, other)
    assert found.whole == {champion: "cliptea-world version 2 (champion) comes from it"}
    assert found.models == {
        by_variant: "cliptea-world version 1 comes from it",
        by_itself: "by-hand version 1 comes from it",
        by_source: "by-hand version 2 comes from it",
    }


def test_all_pages_of_versions_are_read(client, monkeypatch):
    runs = [add_run(client, hours=1000) for _ in range(5)]
    for number, run in enumerate(runs):
        register(client, run, f"s3://models/{number}")
    search = type(client).search_model_versions
    monkeypatch.setattr(
        type(client), "search_model_versions", lambda *args, **more: search(*args, **more, max_results=2)
    )
    assert models(*runs).models.keys() == set(runs)


def test_a_skipped_run_keeps_the_one_that_it_refers_to_and_does_not_count(client):
    first, second = add_run(client, hours=9), add_run(client, hours=8)
    skipped = add_run(client, hours=1, **{Tag.SKIPPED: first})
    assert kept(first, second, skipped, newest=1).keys() == {first, second, skipped}
    assert kept(first, second, skipped, hours=2).keys() == {first, skipped}


def test_a_run_that_was_deleted_in_mlflow_goes_and_one_that_it_does_not_know_stays(client):
    deleted, registered = add_run(client, "RUNNING"), add_run(client)
    register(client, registered, "s3://models/1")
    for run in (deleted, registered):
        client.delete_run(run)
    assert kept(deleted, registered, UNKNOWN, newest=5, hours=5) == {UNKNOWN: "MLflow does not know it"}
    assert models(deleted, registered).models == {registered: "cliptea-world version 1 comes from it"}


def test_runs_of_a_cluster_need_an_answer_from_pipelines(client):
    scheduled = add_run(client, hours=9, **CLUSTER)
    other = add_run(client, hours=8, **CLUSTER | {Tag.KEY: "job-2", Tag.JOB: "job-2"})
    with pytest.raises(ConfigError, match=r"its schedules are not known here.*KFP_ENDPOINT"):
        kept(scheduled, other)
    assert kept(scheduled, other, jobs={"job-1": "why", "job-2": ""}) == {scheduled: "why"}


def test_a_run_that_pipelines_does_not_list_may_be_of_another_namespace(client):
    elsewhere = add_run(client, hours=9, **CLUSTER)
    listed = add_run(client, hours=8, **CLUSTER | {Tag.KEY: "job-2", Tag.JOB: "job-2"})
    alone = add_run(client, hours=7)  # of a single machine
    assert kept(elsewhere, listed, alone, jobs={"job-2": ""}) == {elsewhere: UNLISTED}
    client.delete_run(elsewhere)
    assert kept(elsewhere, listed, alone, jobs={"job-2": ""}) == {}


def test_another_reason_to_keep_an_unlisted_run_comes_first(client):
    newest = add_run(client, hours=9, **CLUSTER)
    assert kept(newest, newest=1, jobs={}) == {newest: "it is one of the newest"}


def test_a_failed_run_of_a_cluster_with_a_heartbeat_may_be_retried_now(client):
    retried = add_run(client, "FAILED", 9, **CLUSTER | {Tag.HEARTBEAT: now()})
    silent = add_run(client, "FAILED", 9, **CLUSTER | {Tag.HEARTBEAT: "2026-01-01T00:00:00+00:00"})
    assert kept(retried, silent, jobs={"job-1": ""}) == {retried: RUNNING}


def test_nothing_is_changed_in_mlflow(client):
    run = add_run(client)
    before = client.get_run(run).to_dictionary()
    client.delete_experiment(client.get_run(run).info.experiment_id)
    kept(run, UNKNOWN)
    assert client.get_experiment_by_name("cliptea").lifecycle_stage == "deleted"
    client.restore_experiment(client.get_run(run).info.experiment_id)
    assert client.get_run(run).to_dictionary() == before
    assert past_runs.Tag.KEY in before["data"]["tags"]
