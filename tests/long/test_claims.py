"""What the demo claims, over three worlds and three seeds each: half an hour on two idle cores."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORLDS = (0, 1, 2)
VARIANTS = "variants=[backbones/demo_fpn, table3/no_cls_token, baselines]"

pytestmark = [pytest.mark.long, pytest.mark.timeout(5400)]


@pytest.fixture(scope="module")
def means(tmp_path_factory):
    """Mean of a score over all worlds and seeds, by variant."""
    folder, rows = tmp_path_factory.mktemp("claims"), []
    sources = os.pathsep.join(str(ROOT / part) for part in ("components", "pipeline"))
    for world in WORLDS:
        workdir = folder / f"world{world}"
        command = [sys.executable, "-m", "cliptea_pipeline.cli", "run", "--workdir", str(workdir)]
        settings = ["--set", f"data.seed={world}", "--set", "seeds=3", "--set", VARIANTS]
        subprocess.run([*command, *settings], env=os.environ | {"PYTHONPATH": sources}, check=True)
        rows += json.loads((workdir / "results.json").read_text())

    def mean(variant: str, score: str) -> float:
        values = [row[score] for row in rows if row["variant"] == variant]
        assert len(values) == 3 * len(WORLDS)
        return statistics.fmean(values)

    return mean


def test_the_full_method_segments_unseen_classes(means):
    assert means("demo_fpn", "hiou") >= 0.65
    assert means("demo_fpn", "miou_unseen") >= 0.55


@pytest.mark.parametrize(("variant", "lower"), [("no_cls_token", 0.25), ("no_pseudo", 0.0), ("seen_only", 0.35)])
def test_what_is_left_out_is_missed(means, variant, lower):
    assert means(variant, "hiou") < means("demo_fpn", "hiou") - lower
