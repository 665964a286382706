"""The compiled file as it is submitted, run here by kfp.local: a scheduled run that has nothing to do ends well."""

import json
import subprocess
import sys

import pytest
from command import environment

from cliptea_pipeline.compile import pipeline_file

RUN = """
import sys
from kfp import components, local
file, root, skip = sys.argv[1:]
local.init(local.SubprocessRunner(use_venv=False), pipeline_root=root)
components.load_component_from_file(file)(preset="demo", skip_unchanged=skip == "skip")
"""


@pytest.mark.parametrize(
    ("asked", "unchanged", "trained"), [("skip", True, False), ("skip", False, True), ("always", True, True)]
)
def test_only_an_unchanged_run_that_may_be_skipped_is(tmp_path, asked, unchanged, trained):
    store = tmp_path / "store"
    store.mkdir()
    fake = {"variants": ["g/a"], "unchanged": unchanged}
    own = {"CLIPTEA_STORE": store.as_uri(), "CLIPTEA_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, pipeline_file(), tmp_path / "root", asked],
        env=environment(fake) | own, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    made = {path.name.split("-")[0].split(" ")[0].removesuffix(".json") for path in store.glob("*.json")}
    steps = {"split", "teacher", "train", "evaluate", "compare", "promote"}
    assert made & steps == (steps if trained else set())
    (end,) = (store / "finished.jsonl").read_text().splitlines()
    assert json.loads(end)["state"] == "SUCCEEDED"
