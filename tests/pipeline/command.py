"""Runs the real command line, the compiled pipeline and kfp.local; only the steps' functions are fakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SOURCES = os.pathsep.join(str(ROOT / folder) for folder in ("components", "pipeline"))
COMMAND = [sys.executable, "-m", "cliptea_pipeline.cli"]
PATIENCE = 90  # seconds; the machine may be busy


def _heed_interrupts():
    """A test run that was itself started in the background, or by nohup, hands on that its signals are ignored."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Cliptea:
    """The command `cliptea` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workdir = folder / ".cliptea"
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **fake: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env=environment(fake),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_heed_interrupts,  # noqa: PLW1509
        )
        self.started.append(process)
        return process

    def __call__(self, *arguments: str, **fake: object) -> subprocess.CompletedProcess[str]:
        return self.ended(self.start(*arguments, **fake))

    @staticmethod
    def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
        out, err = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def processes(self) -> list[psutil.Process]:
        """Every living process of a run in this folder but the command itself."""
        events = str(self.workdir)
        found = psutil.process_iter(["environ", "status"])
        return [
            p
            for p in found
            if (p.info["environ"] or {}).get("CLIPTEA_EVENTS", "").startswith(events)
            and p.info["status"] != psutil.STATUS_ZOMBIE
        ]

    def events(self) -> list[dict]:
        """What the steps of this folder's present run have told."""
        told = "".join(path.read_text() for path in self.workdir.glob("run/*/events.jsonl"))
        return [json.loads(line) for line in told.splitlines() if line.endswith("}")]

    def active(self, step: str) -> bool:
        """Whether a step has told of progress."""
        return any((event["event"], event["step"]) == ("bar", step) for event in self.events())

    def stored(self, name: str) -> dict:
        return json.loads((self.workdir / "store" / f"{name}.json").read_text())

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):  # it has just ended
                process.send_signal(signal.SIGKILL)


def environment(fake: dict[str, object]) -> dict[str, str]:
    quiet = {k: v for k, v in os.environ.items() if k not in ("CLIPTEA_THREADS", "OMP_NUM_THREADS")}
    return {
        **quiet,
        "PYTHONPATH": os.pathsep.join([str(HERE / "fakes"), SOURCES]),
        "CLIPTEA_FAKE": json.dumps(fake),
        "COLUMNS": "120",
    }


def wait_until(true: Callable[[], object], seconds: float = PATIENCE) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.05)
    return bool(true())
