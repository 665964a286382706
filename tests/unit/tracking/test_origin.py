"""Tags that say where a run comes from."""

import subprocess
from pathlib import Path

import pytest

from cliptea.tracking.origin import origin

ROOT = Path(__file__).resolve().parents[3]


def test_the_commit_is_that_of_the_checkout(monkeypatch):
    monkeypatch.delenv("CLIPTEA_COMMIT", raising=False)
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        pytest.skip("not a git checkout")
    assert origin("job")["git.commit"].removesuffix("-dirty") == head.stdout.strip()


def test_an_image_says_what_it_is_and_the_run_where_it_is_shown(monkeypatch):
    monkeypatch.delenv("CLIPTEA_EVENTS", raising=False)
    monkeypatch.setenv("CLIPTEA_COMMIT", "abc")
    monkeypatch.setenv("CLIPTEA_IMAGE", "cliptea@sha256:0")
    monkeypatch.setenv("CLIPTEA_KFP_URL", "http://kfp/pipeline/")
    tags = origin("job-1")
    assert (tags["git.commit"], tags["image"]) == ("abc", "cliptea@sha256:0")
    assert tags["kfp.pipeline_run_url"] == "http://kfp/pipeline/#/runs/details/job-1"
    monkeypatch.setenv("CLIPTEA_EVENTS", "/dev/null")  # a run on one machine
    assert "image" not in origin("job-1")
