"""`python -m claims`: train the method, its ablations and what goes beyond it on the demo's worlds, and write a page.

Worlds 0 to 3 are for tuning, worlds 4 to 7 for claims. All results go to claims/results.json, from which
docs/results.md is made. A killed call goes on where it was, because every run reuses what its work directory holds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import machine

from claims.page import render
from cliptea import env, settings
from cliptea.data.datasets import open_dataset
from cliptea.run import Run, expand

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = Path(__file__).parent / "results.json", ROOT / "docs/results.md"
WORLDS = (4, 5, 6, 7)
VARIANTS = "backbones/demo_fpn, table3, baselines, beyond"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m claims", description=__doc__)
    parser.add_argument("--worlds", type=int, nargs="+", default=WORLDS, help="default: the claim worlds 4 to 7")
    parser.add_argument("--seeds", type=int, default=3, help="students of each variant and world")
    parser.add_argument("--variants", default=VARIANTS, help=f"default: {VARIANTS}")
    parser.add_argument("--workdir", type=Path, default=Path(".cliptea-claims"), help="has a work directory per world")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="a setting, as of cliptea run")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file to write")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write")
    asked = parser.parse_args(arguments)
    worlds, commit = {}, _commit()  # before this call writes files of the repository
    for world in asked.worlds:
        overrides = [f"data.seed={world}", f"seeds={asked.seeds}", f"variants=[{asked.variants}]", *asked.overrides]
        worlds[str(world)] = _measure(asked.workdir / f"world{world}", overrides)
        results = {
            "commit": commit,
            "machine": machine(),
            "seeds": asked.seeds,
            "overrides": asked.overrides,
            "worlds": worlds,
        }
        asked.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        asked.page.write_text(render(results), encoding="utf-8")
    return 0


def _measure(workdir: Path, overrides: list[str]) -> dict[str, Any]:
    """The rows of results.json and the figures about regions, from a run in this work directory."""
    command = [sys.executable, "-m", "cliptea_pipeline.cli", "run", "--workdir", str(workdir)]
    subprocess.run([*command, *(part for one in overrides for part in ("--set", one))], check=True)
    rows = json.loads((workdir / "results.json").read_text(encoding="utf-8"))
    from claims.names import measure_names
    from claims.regions import measure_regions, teacher_cost

    config = settings.load("demo", overrides)
    digest = open_dataset(config.data).digest()
    run = Run(config=config, data_digest=digest, fingerprint="", job_id="", tracking_run="", variants=expand(config))
    kept = ("group", "variant", "seed", "pAcc", "miou_seen", "miou_unseen", "hiou")
    with _store_of(workdir):
        return {
            "rows": [{name: row[name] for name in kept} for row in rows if row["dataset"] == config.data.dataset],
            "regions": measure_regions(run),
            "names": measure_names(run),
            "teacher": teacher_cost(run),
        }


@contextmanager
def _store_of(workdir: Path) -> Iterator[None]:
    """Use the store that a run in this work directory has used. The next world has its own."""
    given = env.STORE.get()
    env.STORE.set(given or (workdir / "store").absolute().as_uri())
    try:
        yield
    finally:
        if not given:
            del os.environ[env.STORE.name]


def _commit() -> str:
    """The commit of this repository, with a mark if files have changed since."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(git, check=True, capture_output=True, text=True, env=os.environ).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
