"""`cliptea run`: the compiled pipeline on this machine, through kfp.local."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cliptea import settings
from cliptea.config import Config
from cliptea.errors import StorageError
from cliptea.exit_codes import ExitCode
from cliptea.log_lines import Who, as_json, tell
from cliptea.messages import FULL, number_of, plain, plain_lines
from cliptea.progress import clock
from cliptea.report.version import with_place
from cliptea.steps.preflight import check
from cliptea.storage import read_uri
from cliptea.storage.local_files import write_file
from cliptea.tracking.database import mlflow_command, placeless_command, workdir_of
from cliptea_pipeline import processes
from cliptea_pipeline.compile import pipeline_file
from cliptea_pipeline.display import Plain, Terminal, new_console, new_view, results_table
from cliptea_pipeline.events import RunState, Tail
from cliptea_pipeline.extras import require
from cliptea_pipeline.mlflow_database import require_tracking
from cliptea_pipeline.workdir import Workdir

__all__ = ["run"]

POLL_SECONDS = 0.1
FIRST = "resolve"  # it checks what only a step can check, before any other step starts
LEAST_FREE = 1 << 20  # bytes of a disk that is not full


def run(preset: str, overrides: Sequence[str], root: Path, debug: bool = False, text: str = "") -> int:
    """Run the missing parts of the pipeline, and show their progress.

    Args:
        preset, overrides, text: as for `settings.load`.
        root: the work directory.
        debug: show the tracebacks of failed steps.

    Returns:
        Exit code: 0, or 1 if a step failed, 2 if the first step rejected a setting, 77 if the watchdog ended a step,
        128 + signal if the run was stopped.

    Raises:
        ClipteaError: nothing was started.
    """
    require("kfp", "mlflow")
    config = settings.load(preset, list(overrides), text)
    check(config)
    require_tracking()
    file = pipeline_file()
    workdir = Workdir(root)
    start = time.monotonic()
    try:
        run_state, code = _follow(workdir, file, {"preset": preset, "config": text, "overrides": list(overrides)})
    finally:
        workdir.close()
    if "report" in run_state.published:  # even if promotion failed after it
        report, results = (
            read_uri(run_state.published[name], run_state.published[f"{name}_sha256"]) for name in ("report", "results")
        )
        uri = workdir.tracking_uri
        report = with_place(report.decode(), placeless_command(uri), mlflow_command(uri)).encode()
        workdir.keep({workdir.report.name: report, workdir.results.name: results})
    if code == 0:
        model = run_state.published.get("model") if config.data.dataset == "demo" else None
        try_it = _images_to_try(workdir, config, model) if model else ""
        _conclude(workdir, run_state, time.monotonic() - start, try_it)
    elif code > 128:
        tell("info", "stopped; run the same command again to resume", Who(run=run_state.run))
        _mark_stopped(workdir, run_state)
    else:
        _explain(workdir, run_state, debug)
    return code


def _follow(workdir: Workdir, file: Path, arguments: dict) -> tuple[RunState, int]:
    run_state = RunState()
    tail = Tail(workdir.events)
    environment = workdir.environment
    write_file(workdir.arguments, json.dumps(arguments).encode())
    module = "cliptea_pipeline.runner"
    command = [sys.executable, "-m", module, str(file), str(workdir.kfp), str(workdir.arguments)]
    with processes.signals() as stopped:
        process = processes.start(command, environment, workdir.log, workdir.lock)
        shown = None
        try:
            shown = new_view(new_console(), run_state)
            while process.poll() is None and not stopped:
                _advance(run_state, tail, shown)
                time.sleep(POLL_SECONDS)
            if not stopped:
                _advance(run_state, tail, shown)
        finally:
            known = len(stopped)
            processes.stop(process, environment, hurry=lambda: len(stopped) > max(known, 1))
            if shown is not None:
                shown.close()
            tail.close()
        if stopped:
            return run_state, 128 + stopped[0]
    if process.returncode == 0 and not run_state.failures:
        return run_state, 0
    if any(failure["setting"] and failure["step"] == FIRST for failure in run_state.failures):
        return run_state, ExitCode.REJECTED
    codes = [failure.get("code", ExitCode.FAILED) for failure in run_state.failures]
    return run_state, max(codes, default=ExitCode.FAILED)


def _advance(run_state: RunState, tail: Tail, shown: Plain | Terminal) -> None:
    suspects = run_state.suspects()
    for event in tail.read():
        shown.show(event)
    for step in suspects:
        if run_state.active.get((step.name, step.label)) is step:
            shown.show(run_state.silent_end(step))
    shown.tick()


def _images_to_try(workdir: Workdir, config: Config, model: str) -> str:
    """Leave images of the demo world in the work directory. Returns the command that segments them, or ""."""
    from cliptea_pipeline.demo_images import write_demo_images

    try:
        write_demo_images(config.data, workdir.images)
    except StorageError as error:  # the run itself has succeeded
        tell("info", f"no images to try the model on: {error}")
        return ""
    images, root = shlex.quote(str(workdir.images)), shlex.quote(str(workdir.root))
    return f"cliptea predict {images} --model {shlex.quote(model)} --workdir {root}"


def _conclude(workdir: Workdir, run_state: RunState, seconds: float, try_it: str) -> None:
    counts = f"{number_of(run_state.reused, 'step')} reused, {run_state.made} made, in {clock(seconds)}"
    if as_json():
        report, results = str(workdir.report), str(workdir.results)
        tell(
            "info", counts, Who(run=run_state.run), sys.stdout,
            reused=run_state.reused, made=run_state.made, seconds=seconds, report=report, results=results,
            ship=run_state.published.get("ship", ""), predict=try_it,
        )  # fmt: skip
        return
    console = new_console(highlight=False)
    console.print()
    console.print(results_table(json.loads(workdir.results.read_text(encoding="utf-8"))))
    console.print()
    uri = workdir.tracking_uri
    own = workdir_of(uri) == workdir.root.resolve()
    for line in (
        counts,
        f"report   {workdir.report}",
        f"results  {workdir.results}",
        f"runs     {f'cliptea ui --workdir {shlex.quote(str(workdir.root))}' if own else mlflow_command(uri)}",
        *([f"ship     {ship}"] if (ship := run_state.published.get("ship")) else []),
        *([f"images   {workdir.images}; segment them with: {try_it}"] if try_it else []),
    ):
        console.print(plain(line), markup=False, soft_wrap=True)


def _mark_stopped(workdir: Workdir, run_state: RunState) -> None:
    if "tracking_run" not in run_state.published:
        return
    from cliptea.tracking.state import mark_stopped

    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = workdir.tracking_uri
    try:
        with contextlib.suppress(Exception):  # the run was stopped, even if MLflow shows another state
            mark_stopped(run_state.published["tracking_run"])
    finally:  # a program may go on with another work directory
        if before is None:
            del os.environ["MLFLOW_TRACKING_URI"]
        else:
            os.environ["MLFLOW_TRACKING_URI"] = before


def _explain(workdir: Workdir, run_state: RunState, debug: bool) -> None:
    for failure in run_state.failures:
        if debug and failure["trace"] and not as_json():  # which has it already
            print(plain_lines(failure["trace"]), file=sys.stderr)
        who = Who(failure["step"], failure["label"], run_state.run)
        tell("error", f"{who.name}: {failure['text']}", who)
    if not run_state.failures:
        full = shutil.disk_usage(workdir.root).free < LEAST_FREE  # so that a step could not write down its error
        why = f"the disk of {workdir.root} is full; {FULL}" if full else "see the end of the log"
        tell("error", plain(f"the run ended without an error message; {why}"), Who(run=run_state.run))
    if "report" in run_state.published:
        tell("info", f"report: {plain(str(workdir.report))}", Who(run=run_state.run))
    tell("info", f"log: {plain(os.path.relpath(workdir.log))}", Who(run=run_state.run))
