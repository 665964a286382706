"""`python -m cliptea_pipeline.runner FILE ROOT ARGUMENTS` runs the compiled pipeline with kfp.local.

It is a separate process, because kfp.local prints a lot, does not forward signals, and leaves its tasks running. Its
ARGUMENTS are in a file, because Linux limits an argument to 128 KiB.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

import yaml

from cliptea import env
from cliptea.steps.common import die_with
from cliptea.steps.kfp_inside import import_local, start_tasks_with
from cliptea_pipeline.forks import Nursery


def main(file: str, root: str, arguments: str) -> int:
    die_with(os.environ[env.ALIVE.name])
    warnings.simplefilter("ignore", RuntimeWarning)  # kfp's, on images whose name does not hold "python"
    nursery = Nursery() if sys.platform == "linux" else None  # elsewhere forks of loaded libraries are not safe
    components, local = import_local()
    if nursery is not None:
        start_tasks_with(nursery.run)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=root, raise_on_error=True)
    pipeline = components.load_component_from_text(_without_retries(file))
    try:
        pipeline(**json.loads(Path(arguments).read_text(encoding="utf-8")))
    except RuntimeError as error:  # raised by kfp for a failed task, which has reported the reason itself
        print(error, file=sys.stderr)
        return 1
    return 0


def _without_retries(file: str) -> str:
    """The pipeline without retries. They are for lost nodes and servers, which do not occur on one machine."""
    pipeline, *_ = yaml.safe_load_all(Path(file).read_text(encoding="utf-8"))  # a second document is for Kubernetes
    for component in (pipeline["root"], *pipeline["components"].values()):
        for task in component.get("dag", {}).get("tasks", {}).values():
            task.pop("retryPolicy", None)
    return yaml.safe_dump(pipeline)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
