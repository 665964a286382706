"""The alias in a real registry: races of processes, killed runs, rollback, and hands in MLflow's own page."""

import multiprocessing
import random
import time

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from cliptea import progress
from cliptea.errors import ConfigError
from cliptea.model_address import CHAMPION
from cliptea.tracking import registry
from cliptea.tracking.champions import Score
from cliptea.tracking.registry import register, rollback, settle
from cliptea_pipeline.cli import app

NAME = "cliptea-world"


def add(client, hiou, source=None, name=NAME, margin=0.0):
    return register(client, name, source or f"s3://models/{random.random()}", None, Score(hiou, "set", margin), {})


def champion(client, name=NAME):
    return int(client.get_model_version_by_alias(name, CHAMPION).version)


def promote(client, hiou, **more):
    version = add(client, hiou, **more)
    return settle(client, NAME, version)


def test_decision_and_reason_are_tags_of_the_version(client):
    outcomes = [promote(client, hiou) for hiou in (0.4, 0.3, 0.6)]
    assert [outcome.champion for outcome in outcomes] == [1, 1, 3]
    versions = {int(v.version): v.tags for v in client.search_model_versions(f"name = '{NAME}'")}
    assert [versions[n]["cliptea.decision"] for n in (1, 2, 3)] == ["promoted", "not promoted", "promoted"]
    assert versions[2]["cliptea.reason"] == "hIoU 30.00 % does not beat the champion's 40.00 %"


def test_descriptions_name_the_champion_until_a_user_writes_another_one(client):
    for hiou in (0.4, 0.6, 0.5):
        promote(client, hiou)
    assert client.get_registered_model(NAME).description == "The champion is version 2: hIoU 60.0 %."
    assert client.get_model_version(NAME, "3").description == (
        "hIoU 50.0 %. Not promoted: hIoU 50.00 % does not beat the champion's 60.00 %."
    )
    rollback(client, NAME)
    assert client.get_registered_model(NAME).description == "The champion is version 1: hIoU 40.0 %."
    client.update_registered_model(NAME, "For the cars in Basel.")
    promote(client, 0.7)
    assert client.get_registered_model(NAME).description == "For the cars in Basel."


def test_a_model_is_registered_once(client):
    assert add(client, 0.5, "s3://models/a") == add(client, 0.5, "s3://models/a") == 1


def test_a_model_that_was_trained_again_has_its_later_score(client):
    promote(client, 0.5, source="s3://models/a")
    outcome = promote(client, 0.25, source="s3://models/a")
    assert outcome.decision.reason == "first champion, hIoU 25.00 %"
    assert client.get_model_version(NAME, "1").tags["hiou"] == "0.25"
    assert promote(client, 0.3).champion == 2


def test_a_run_killed_after_registering_is_completed_by_the_next_or_by_itself(client):
    promote(client, 0.4)
    lost = add(client, 0.7, "s3://models/lost")  # killed here
    assert settle(client, NAME, add(client, 0.6)).champion == lost
    assert champion(client) == lost
    assert settle(client, NAME, add(client, 0.7, "s3://models/lost")).decision.promoted


def test_a_late_write_of_an_old_decision_is_corrected(client, monkeypatch):
    """The first run stands still between its look at the registry and its write; a second one passes it."""
    promote(client, 0.4)
    first = add(client, 0.5)
    plain = MlflowClient.set_registered_model_alias
    passed = []

    def stand_still(self, name, alias, version):
        if not passed:
            passed.append(version)
            assert settle(client, NAME, add(client, 0.6)).champion == 3
        plain(self, name, alias, version)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", stand_still)
    assert settle(client, NAME, first).champion == 3
    assert passed == ["2"]
    assert champion(client) == 3


def _promote_many(uri, hious, seed):
    random.seed(seed)
    plain = MlflowClient.search_model_versions

    def slow(*arguments, **options):  # so that runs meet between reading and writing
        seen = plain(*arguments, **options)
        time.sleep(random.random() * 0.05)
        return seen

    MlflowClient.search_model_versions = slow
    client = MlflowClient(uri)
    for hiou in hious:
        settle(client, NAME, add(client, hiou))


def test_processes_that_promote_at_once_leave_the_best_champion(tracking_uri):
    hious = [[0.2, 0.5, 0.3], [0.6, 0.4, 0.55], [0.3, 0.45, 0.58]]
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_promote_many, args=(tracking_uri, h, n)) for n, h in enumerate(hious)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    client = MlflowClient(tracking_uri)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    versions = {int(v.version): v for v in client.search_model_versions(f"name = '{NAME}'")}
    assert sorted(versions) == list(range(1, 10))
    assert versions[champion(client)].tags["hiou"] == "0.6"
    best = 0.0
    for number in sorted(versions):  # every decision is that of the order of the numbers
        hiou = float(versions[number].tags["hiou"])
        assert versions[number].tags["cliptea.decision"] == ("promoted" if hiou > best else "not promoted")
        best = max(best, hiou)


def test_rollback_goes_back_champion_by_champion_and_holds(client):
    for hiou in (0.4, 0.5, 0.6, 0.55):
        promote(client, hiou)
    assert rollback(client, NAME) == (3, 2)
    assert champion(client) == 2
    assert client.get_model_version(NAME, "3").tags["cliptea.reason"] == "rolled back to version 2"
    assert rollback(client, NAME) == (2, 1)
    with pytest.raises(ConfigError, match="version 1 is the first champion of"):
        rollback(client, NAME)
    assert promote(client, 0.3).champion == 1
    assert promote(client, 0.45).champion == 6
    assert rollback(client, NAME) == (6, 1)


def test_rollback_without_a_champion_says_so(client):
    add(client, 0.4)
    client.create_registered_model("empty")
    with pytest.raises(ConfigError, match="empty has no champion"):
        rollback(client, "empty")


def test_rollback_of_an_unknown_model_names_those_that_are(client):
    promote(client, 0.4)
    with pytest.raises(ConfigError, match=f"registered model 'other' does not exist.*{NAME}"):
        rollback(client, "other")


def test_an_alias_set_by_hand_is_what_later_models_must_beat(client):
    for hiou in (0.4, 0.6):
        promote(client, hiou)
    client.set_registered_model_alias(NAME, CHAMPION, "1")
    outcome = promote(client, 0.5)
    assert outcome.decision.reason.startswith("hIoU 50.00 % beats the champion's 40.00 %")
    assert champion(client) == 3
    assert rollback(client, NAME) == (3, 1)


def test_a_deleted_champion_leaves_no_decision_that_is_no_longer_so(client):
    for hiou in (0.6, 0.5, 0.4):
        promote(client, hiou)
    client.delete_model_version(NAME, "1")
    assert promote(client, 0.3).champion == champion(client) == 2
    versions = {int(v.version): v for v in client.search_model_versions(f"name = '{NAME}'")}
    assert {number: one.tags["cliptea.decision"] for number, one in versions.items()} == {
        2: "promoted",
        3: "not promoted",
        4: "not promoted",
    }
    told = "first champion, hIoU 50.00 % (decided again, because versions were deleted or their scores have changed)"
    assert versions[2].tags["cliptea.reason"] == told
    assert versions[2].description == f"hIoU 50.0 %. Promoted: {told}."
    assert versions[3].tags["cliptea.reason"] == "hIoU 40.00 % does not beat the champion's 60.00 %"  # as it was then


def test_a_version_registered_by_hand_is_no_candidate_but_may_be_chosen(client):
    client.create_registered_model(NAME)
    client.create_model_version(NAME, "s3://models/theirs")
    assert promote(client, 0.4).champion == 2
    client.set_registered_model_alias(NAME, CHAMPION, "1")
    outcome = promote(client, 0.9)
    assert "cannot be compared" in outcome.decision.reason
    assert champion(client) == 1


@pytest.fixture
def warned(monkeypatch):
    """The warnings about damaged scores, which are looked at twice without a pause."""
    said = []
    monkeypatch.setattr(progress, "warn", said.append)
    monkeypatch.setattr(registry, "WRITING_SECONDS", 0.0)
    return said


def test_a_version_with_a_wrong_bit_in_its_score_counts_as_not_measured(client, warned):
    promote(client, 0.45)
    flips = [("hiou", "0.5", "0.7"), ("cliptea.evaluation", "set", "sgt"), ("cliptea.margin", "0.1", "0.0")]
    for number, (tag, value, flipped) in enumerate(flips, start=2):
        assert add(client, 0.5, f"s3://models/{tag}", margin=0.1) == number
        assert client.get_model_version(NAME, str(number)).tags[tag] == value
        assert [(ord(a) ^ ord(b)).bit_count() for a, b in zip(value, flipped, strict=True) if a != b] == [1]
        client.set_model_version_tag(NAME, str(number), tag, flipped)
    outcome = settle(client, NAME, 2)
    assert (outcome.champion, outcome.decision.reason) == (1, "it has no hIoU")
    assert client.get_model_version(NAME, "2").description == "no hIoU. Not promoted: it has no hIoU."
    damaged = [line.partition(":")[0] for line in warned]
    assert damaged == [f"the score of {NAME} version {number} is damaged" for number in (2, 3, 4)]
    for tag, _, _ in flips:  # their runs write the tags anew
        version = add(client, 0.5, f"s3://models/{tag}", margin=0.1)
    assert settle(client, NAME, version).decision.reason == (
        "hIoU 50.00 % does not beat the champion's 45.00 % by more than 10 points"
    )
    assert len(warned) == 3


def test_a_champion_with_a_damaged_score_stays_until_its_run_writes_it_anew(client, warned):
    for hiou, source in ((0.4, None), (0.6, "s3://models/best"), (0.5, None)):
        promote(client, hiou, source=source)
    client.set_model_version_tag(NAME, "2", "hiou", "0.2")
    outcome = promote(client, 0.55)
    assert outcome.champion == champion(client) == 2
    assert "the champion has none" in outcome.decision.reason
    add(client, 0.6, "s3://models/best")
    assert promote(client, 0.58).champion == champion(client) == 2
    assert promote(client, 0.65).champion == champion(client) == 6
    assert len(warned) == 1


def test_a_score_without_a_sha256_is_one_that_a_user_has_set(client, warned):
    promote(client, 0.4)
    add(client, 0.3)
    client.delete_model_version_tag(NAME, "2", "cliptea.score_sha256")
    client.set_model_version_tag(NAME, "2", "hiou", "0.7")
    assert settle(client, NAME, 2).champion == 2
    assert warned == []


def test_a_score_that_another_run_is_writing_is_read_again(client, warned, monkeypatch):
    promote(client, 0.4)
    second = add(client, 0.3, "s3://models/second")
    plain, read = MlflowClient.search_model_versions, []
    set_tag = MlflowClient.set_model_version_tag

    def killed(*arguments):
        set_tag(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as first_tag_only:
        first_tag_only.setattr(MlflowClient, "set_model_version_tag", killed)
        with pytest.raises(KeyboardInterrupt):
            add(client, 0.5, "s3://models/second")

    def late(*arguments):
        found = plain(*arguments)
        if not read:
            read.append(found)
            add(client, 0.5, "s3://models/second")
        return found

    monkeypatch.setattr(MlflowClient, "search_model_versions", late)
    assert settle(client, NAME, second).champion == second
    assert warned == []


@pytest.mark.parametrize("chosen", ["1", "3"])
def test_a_choice_counts_while_a_run_is_about_to_decide(client, chosen):
    for hiou in (0.4, 0.6, 0.5):
        promote(client, hiou)
    add(client, 0.3)  # its run was killed, or is about to go on
    client.set_registered_model_alias(NAME, CHAMPION, chosen)
    assert promote(client, 0.1).champion == champion(client) == int(chosen)


def test_an_alias_that_another_run_has_set_is_no_choice(client):
    for hiou in (0.4, 0.6):
        promote(client, hiou)
    other = add(client, 0.8)
    client.set_registered_model_alias(NAME, CHAMPION, str(other))  # as its run does before it settles its version
    assert promote(client, 0.7).champion == other
    assert rollback(client, NAME) == (other, 2)


def test_tags_of_somebody_else_are_passed_over(client):
    promote(client, 0.4)
    for key in ("x", "1", "1.2.3", "1.x", "1." + "9" * 40, ""):
        client.set_model_version_tag(NAME, "1", f"cliptea.chosen.{key}", "theirs")
    assert promote(client, 0.6).champion == 2
    assert rollback(client, NAME) == (2, 1)


def test_the_command_says_what_it_did(client):
    for hiou in (0.4, 0.6):
        promote(client, hiou)
    answer = CliRunner().invoke(app, ["rollback", "--model", NAME])
    assert (answer.exit_code, answer.stdout) == (
        0,
        f"{NAME}: the champion is version 1 again, and no longer version 2\n",
    )
    answer = CliRunner().invoke(app, ["rollback", "--model", f"models:/{NAME}@champion"])
    assert (answer.exit_code, answer.stderr.count("\n")) == (2, 1)
    assert "version 1 is the first champion of" in answer.stderr
    assert champion(client) == 1


@pytest.mark.parametrize("name", [f"models:/{NAME}/1", f"models:/{NAME}@other", "runs:/0/model", "a/b"])
def test_what_is_no_name_of_a_model_is_refused_before_mlflow_is_asked(name, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    answer = CliRunner().invoke(app, ["rollback", "--model", name])
    assert answer.exit_code == 2
    assert answer.stderr.startswith(f"error: --model {name} is not a model name; ")
    assert answer.stderr.endswith("cliptea-demo\n")


def test_a_registry_that_is_down_is_one_line(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    answer = CliRunner().invoke(app, ["rollback", "--model", NAME])
    assert (answer.exit_code, answer.stderr.count("\n")) == (1, 1)
    assert "MLflow does not answer at http://127.0.0.1:9" in answer.stderr
