"""`make docs`: the site builds without a warning, and without a network."""

import os
import subprocess
import sys

import pytest
from docs.pages import ROOT

NOWHERE = "http://127.0.0.1:9"


@pytest.mark.long
def test_the_site_builds_offline(tmp_path):
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--conf-dir", "docs", ".", str(tmp_path)]
    offline = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), NOWHERE)
    built = subprocess.run(command, cwd=ROOT, env=os.environ | offline, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-3000:]
    assert (tmp_path / "index.html").is_file()
    assert "global_loss" in (tmp_path / "docs" / "api" / "cliptea.method.html").read_text(encoding="utf-8")
