"""The whole pipeline for real, as small as it goes: `cliptea run --preset smoke`, twice."""

import json
import math
import os
import re
import subprocess
import sys

import pytest
from command import COMMAND, ROOT, SOURCES

from cliptea import settings
from cliptea.run import expand

KEYS = {
    "variant", "group", "backbone", "dataset", "seed", "iterations", "gamma", "pAcc", "miou_seen",
    "miou_unseen", "hiou", "per_class", "training_images_per_second", "model_uri", "mlflow_run_id", "inference",
}  # fmt: skip
SMOKE_SECONDS = 540  # 90 on two idle cores


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The folder, the output of a run, and the output of the same run again."""
    folder = tmp_path_factory.mktemp("smoke")
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}

    def run():
        command = [*COMMAND, "run", "--preset", "smoke"]
        ended = subprocess.run(
            command,
            check=False,
            cwd=folder,
            env=environment | {"PYTHONPATH": SOURCES, "COLUMNS": "120"},
            capture_output=True,
            text=True,
            timeout=SMOKE_SECONDS,
        )
        assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
        return ended.stdout

    return folder / ".cliptea", run(), run()


@pytest.fixture(scope="module")
def rows(smoke):
    return json.loads((smoke[0] / "results.json").read_text())


def test_every_variant_has_a_row(rows):
    members = [
        (member.group, member.variant, variant.seed)
        for variant in expand(settings.load("smoke"))
        for member in variant.members
    ]
    assert sorted((row["group"], row["variant"], row["seed"]) for row in rows) == sorted(members)
    assert all(row.keys() >= KEYS for row in rows)


def test_scores_are_fractions(rows):
    for row in rows:
        scores = [row[name] for name in ("pAcc", "miou_seen", "miou_unseen", "hiou")]
        scores += [value for value in row["per_class"].values() if value is not None]
        assert all(math.isfinite(score) and 0 <= score <= 1 for score in scores), row
        assert row["training_images_per_second"] > 0
        assert row["inference"]["latency_ms"] > 0


def test_the_report_needs_no_network(smoke):
    report = (smoke[0] / "report.html").read_text()
    assert "</html>" in report
    assert 'src="http' not in report
    assert 'href="http' not in report.replace('href="https://arxiv.org', "")


def test_the_second_call_makes_nothing(smoke):
    _, first, second = smoke
    made = int(re.search(r"^0 steps reused, (\d+) made", first, re.MULTILINE)[1])
    assert f"\n{made} steps reused, 0 made" in second
    assert "failed" not in first + second


def test_the_example_notebook_runs(smoke):
    """In the folder of the run, so that it reuses its outputs. Every cell is code or text of that notebook."""
    notebook = json.loads((ROOT / "docs/example.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    ended = subprocess.run(
        [sys.executable, "-c", "\n\n".join(cells)],
        check=False,
        cwd=smoke[0].parent,
        env=environment | {"PYTHONPATH": SOURCES},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("hIoU") >= 5
    assert "0 made" in ended.stdout


def test_what_is_tracked_is_in_the_work_directory(smoke):
    assert (smoke[0] / "mlflow" / "mlflow.db").is_file()
    assert {path.name for path in smoke[0].parent.iterdir()} == {".cliptea"}
