"""The webhook is told the truth, its failures cost a warning, and its address stays secret."""

import pytest
import small_servers

from cliptea import notice

webhook = small_servers.webhook


@pytest.fixture
def warnings(monkeypatch):
    found = []
    monkeypatch.setattr(notice.progress, "warn", found.append)
    return found


def test_the_webhook_is_told_the_state(webhook, warnings):
    notice.post_state("job-1", "FAILED", "train failed", "run-1")
    (body,) = webhook.bodies
    assert body["text"] == "cliptea run job-1: FAILED (train failed)"
    assert (body["state"], body["mlflow_run_id"]) == ("FAILED", "run-1")
    assert warnings == []


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:9/secret-part",
        "no address secret-part",
        "ftp://secret-part",
        "http://127.0.0.1:9/a secret-part",
        "http://127.0.0.1:secret-part",
    ],
)
def test_a_webhook_that_cannot_be_reached_costs_a_warning(monkeypatch, warnings, address):
    monkeypatch.setenv("CLIPTEA_WEBHOOK", address)
    notice.post_state("job-1", "SUCCEEDED", "", "run-1")
    assert len(warnings) == 1
    assert "secret-part" not in warnings[0]


def test_a_port_of_another_protocol_costs_a_warning(monkeypatch, warnings):
    with small_servers.greeting(b"SSH-2.0-OpenSSH_9.2\r\n") as place:
        monkeypatch.setenv("CLIPTEA_WEBHOOK", f"http://{place}/secret-part")
        notice.post_state("job-1", "SUCCEEDED", "", "run-1")
    assert warnings == [
        "the webhook CLIPTEA_WEBHOOK could not be notified that the run ended (BadStatusLine); "
        "check whether it is the address of a running webhook"
    ]


def test_a_webhook_that_refuses_costs_a_warning(webhook, warnings):
    webhook.status = 500
    notice.post_state("job-1", "SUCCEEDED", "", "")
    assert warnings == [
        "the webhook CLIPTEA_WEBHOOK could not be notified that the run ended (500); "
        "check whether it is the address of a running webhook"
    ]


def test_without_an_address_nothing_is_sent(monkeypatch, warnings):
    monkeypatch.delenv("CLIPTEA_WEBHOOK", raising=False)
    notice.post_state("job-1", "SUCCEEDED", "", "")
    assert warnings == []
