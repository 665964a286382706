"""Real runs that share tokens: `cliptea clean` deletes what only the earlier one needs, and the later one is reused."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--preset", "smoke", "--set", "variants=[baselines/full]"]
LATER = ["--set", "train.iterations=3"]

pytestmark = pytest.mark.long


@pytest.fixture
def cliptea(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sources = os.pathsep.join(str(ROOT / part) for part in ("components", "pipeline"))
    environment = os.environ | {"PYTHONPATH": sources, "COLUMNS": "120", "CLIPTEA_CACHE": str(tmp_path / "cache")}

    def call(*arguments):
        command = [sys.executable, "-m", "cliptea_pipeline.cli", *arguments, "--workdir", str(tmp_path / "w")]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    return call


def made(told):
    reused, new = re.search(r"^(\d+) steps? reused, (\d+) made", told, re.MULTILINE).groups()
    return int(reused), int(new)


@pytest.mark.timeout(1800)
def test_a_kept_run_is_reused_after_the_other_was_cleaned(cliptea, tmp_path):
    assert made(cliptea("run", *SMALL))[0] == 0
    later = cliptea("run", *SMALL, *LATER)
    assert "nothing to delete" in cliptea("clean", "--yes", "--keep", "2")
    kept_by_alias = cliptea("clean", "--keep", "0")
    assert "(champion) comes from it" in kept_by_alias
    assert "not ours" not in kept_by_alias  # so every object of a run is in a list
    client = MlflowClient(f"sqlite:///{tmp_path / 'w/mlflow/mlflow.db'}")
    for model in client.search_registered_models():
        client.delete_registered_model(model.name)
    store = tmp_path / "w/store"
    before = {path.relative_to(store).parts[:2] for path in store.rglob("*") if path.is_file()}
    assert sorted(kind for kind, _ in before if kind in ("train", "tokens")) == ["tokens", "train", "train"]
    assert "nothing was deleted" in cliptea("clean")
    cliptea("clean", "--yes")
    after = {path.relative_to(store).parts[:2] for path in store.rglob("*") if path.is_file()}
    kinds = ["compare", "evaluate", "speed", "tracked", "train", "uses"]
    assert sorted(kind for kind, _ in before - after) == kinds
    assert after < before
    steps = sum(made(later))
    assert made(cliptea("run", *SMALL, *LATER)) == (steps, 0)
    reused, new = made(cliptea("run", *SMALL))
    assert (reused > 0, new > 0) == (True, True)
