"""A first run is killed at each of 100 moments of its life, and the next one in the same folder goes on."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

KILLS, LEAST = 100, 95  # moments, and how many of them must come before the end of a run
AT_ONCE = 2  # runs
COMMAND = [sys.executable, "-m", "cliptea_pipeline.cli", "run", "--preset", "smoke"]
SMALL = [  # as few images and iterations as possible: nearly all changes are made by other work
    "variants=[backbones/demo_fpn]",
    "data.world.train_scenes=8",
    "data.world.val_scenes=4",
    "teacher.pretrain.scenes=8",
    *(f"teacher.pretrain.{phase}_iterations=1" for phase in ("detail", "crop", "scene")),
]
NEVER = 10**9

pytestmark = [pytest.mark.long, pytest.mark.timeout(5400)]


class Run:
    """A first run in a folder of its own, with its cache and its temporary files."""

    def __init__(self, folder):
        self.folder, self.work = folder, folder / "work"
        (folder / "tmp").mkdir(parents=True)

    def __call__(self, last=NEVER):
        """Exit code, output and number of changed files, where everything is killed just before the change `last`."""
        count = self.folder.with_name(f"{self.folder.name}-{last}.count")
        own = {
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "killing"), os.environ.get("PYTHONPATH", "")]),
            "CLIPTEA_TEST_FOLDER": str(self.folder),
            "CLIPTEA_TEST_COUNT": str(count),
            "CLIPTEA_TEST_LAST": str(last),
            "CLIPTEA_CACHE": str(self.folder / "cache"),
            "CLIPTEA_THREADS": "1",
            "TMPDIR": str(self.folder / "tmp"),
        }
        inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        settings = (word for setting in SMALL for word in ("--set", setting))
        command = [*COMMAND, *settings, "--workdir", str(self.work)]
        ended = subprocess.run(
            command,
            check=False,
            env=inherited | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        return ended.returncode, ended.stdout, count.stat().st_size

    def scores(self):
        rows = json.loads((self.work / "results.json").read_text())
        return [(row["variant"], row["pAcc"], row["miou_seen"], row["miou_unseen"], row["hiou"]) for row in rows]


def test_the_next_run_works_whenever_the_first_was_killed(tmp_path):
    calm = Run(tmp_path / "calm")
    code, output, changes = calm()
    assert code == 0, output
    assert changes > KILLS
    late = []
    moments = [1 + number * (changes - 1) // KILLS for number in range(KILLS)]

    def killed_then_whole(moment):
        run = Run(tmp_path / str(moment))
        code, output, _ = run(moment)
        if code == 0 and moment > 0.9 * changes:  # the run has made fewer changes than the calm one
            late.append(moment)
            return None
        if code != -signal.SIGKILL:
            return f"{moment}: {code}: {output}"
        code, output, _ = run()
        if code != 0 or run.scores() != calm.scores():
            return f"{moment} of {changes}: {code}: {output}"
        return None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        wrong = [answer for answer in pool.map(killed_then_whole, moments) if answer]
    print(f"{KILLS - len(late)} of {KILLS} runs were killed; these of {changes} changes came too late: {sorted(late)}")
    assert not wrong, "\n".join(wrong)
    assert KILLS - len(late) >= LEAST
