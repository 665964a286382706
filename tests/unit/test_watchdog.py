"""Whatever ends a process, its children end with it; and work that has come to a halt ends, but not slow work."""

import errno
import os
import queue
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from cliptea import board, watchdog
from cliptea.steps.common import run_step
from cliptea.storage import FileStore
from cliptea.training import follower

LOADER = """
import os, signal, sys, time, torch
from torch.utils.data import DataLoader, Dataset
from cliptea import watchdog
from cliptea.training import batches

class Items(Dataset):
    def __len__(self): return 64
    def __getitem__(self, item):
        if item == 9 and sys.argv[1] == "worker": raise RuntimeError("object missing")
        return torch.zeros(4)

with watchdog.inherited():
    loaded = iter(DataLoader(Items(), batch_size=4, num_workers=2, worker_init_fn=batches._begin))
next(loaded)
if sys.argv[1] == "wait":
    signal.signal(signal.SIGTERM, lambda number, frame: None)
print(*[worker.pid for worker in loaded._workers], flush=True)
if sys.argv[1] == "wait":
    sys.stdin.readline()
elif sys.argv[1] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
elif sys.argv[1] == "terminate":
    os.kill(os.getpid(), signal.SIGTERM)
elif sys.argv[1] == "step":
    raise KeyError("an error in a step")
for _ in loaded: pass
"""


def gone(pids, seconds=10.0):
    deadline = time.monotonic() + seconds
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.parametrize(
    ("how", "code"), [("end", 0), ("worker", 1), ("step", 1), ("kill", -signal.SIGKILL), ("terminate", -signal.SIGTERM)]
)
def test_however_training_ends_its_loading_processes_end(how, code):
    ended = subprocess.run([sys.executable, "-c", LOADER, how], check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == code, ended.stderr
    assert ("object missing" in ended.stderr) == (how == "worker")
    pids = [int(pid) for pid in ended.stdout.split()]
    assert len(pids) == 2
    assert gone(pids)


def test_loading_processes_outlive_a_sigterm_of_the_group_until_training_ends():
    process = subprocess.Popen(
        [sys.executable, "-c", LOADER, "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    pids = [int(pid) for pid in process.stdout.readline().split()]
    os.killpg(process.pid, signal.SIGTERM)
    time.sleep(1.5)
    assert all(psutil.pid_exists(pid) for pid in pids)
    process.communicate(b"\n", timeout=30)  # it loads the rest, and ends
    assert process.returncode == 0
    assert gone(pids)


HALT = """
import multiprocessing, os, subprocess, sys, threading, time
from cliptea import watchdog
watchdog.OUTAGE_SECONDS = 0.0  # the limit of the test is shorter than what is added for outages
watchdog.SILENT_LIMITS = 2 if sys.argv[1] == "trains" else 4
from cliptea.outage import Outage
from cliptea.steps.common import run_step
from cliptea import progress

fork = multiprocessing.get_context("fork")

def child_never_ends():
    threading.Event().wait()

def work():
    end = time.monotonic() + (0 if sys.argv[1] == "idle" else 5)
    if sys.argv[1] == "halt":
        process = fork.Process(target=child_never_ends)
        process.start()
        print("child", process.pid, flush=True)
        threading.Event().wait()
    if sys.argv[1] == "never ends":
        while True:
            sum(range(1000))
    if sys.argv[1] == "trains":
        from cliptea.training import torchrun
        return torchrun.start("training_of_the_test", sys.argv[2], 1)
    if sys.argv[1] == "a command never ends":
        subprocess.run(["sleep", "60"])
        print("went on")
        return
    while time.monotonic() < end:
        if sys.argv[1] == "computes":
            sum(range(1000))
        elif sys.argv[1] == "a child computes":
            fork.Process(target=os.system, args=("timeout 5 sh -c 'while :; do :; done'",)).start()
            time.sleep(5)
        elif sys.argv[1] == "reports":
            time.sleep(0.9)
            progress.note("a unit is done")
        elif sys.argv[1] == "writes":
            time.sleep(0.05)
            open(os.devnull, "wb").write(bytes(1 << 18))
        elif sys.argv[1] == "waits for a server":
            absence = Outage("S3", 5)
            while absence.wait("refused"): pass
        elif sys.argv[1] == "a child waits for a server":
            def wait():
                absence = Outage("S3", 6)
                while absence.wait("refused"): pass
            child = fork.Process(target=wait)
            child.start()
            child.join()
        elif sys.argv[1] == "sleeps":
            time.sleep(5)
        elif sys.argv[1] == "means to pause":
            watchdog.alive(4)
            time.sleep(5)

run_step("split", work)
print("done")
"""


TRAINING = """
import sys, time
from cliptea import watchdog

end = time.monotonic() + (14 if sys.argv[1] == "reports" else 60)
while time.monotonic() < end:
    if sys.argv[1] == "reports":
        time.sleep(0.3)
        watchdog.alive()
"""


def stepped(how, minutes="0.035", **more):
    variables = {**os.environ, "CLIPTEA_STALL_MINUTES": minutes, "CLIPTEA_PATIENCE": "0", "CLIPTEA_STORE": "", **more}
    for name in ("CLIPTEA_EVENTS", "CLIPTEA_ALIVE", "CLIPTEA_STEP"):
        variables.pop(name, None)
    command = [sys.executable, "-c", HALT, *how.split("+")]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=variables)


def test_a_step_that_halts_says_so_shows_its_stacks_and_ends():
    ended = stepped("halt")
    assert ended.returncode == 77, ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("split: failed")]
    assert "nothing was computed, read or written for 0.035 minutes" in line
    assert "CLIPTEA_STALL_MINUTES" in line
    assert "in work" in ended.stderr  # the stack of the step
    assert "in child_never_ends" in ended.stderr  # and of its child
    assert gone([int(ended.stdout.split()[1])])


def test_a_step_does_not_succeed_because_its_halted_command_was_ended():
    ended = stepped("a command never ends")
    assert ended.returncode == 77, ended.stderr
    assert "split: done" not in ended.stderr


def test_a_step_that_computes_without_end_is_ended_too():
    ended = stepped("never ends")
    assert ended.returncode == 77, ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("split: failed")]
    assert "nothing was reported, read or written for 0.14 minutes" in line
    assert "CLIPTEA_STALL_MINUTES" in line
    assert "in work" in ended.stderr


@pytest.mark.parametrize(("how", "code"), [("reports", 0), ("computes", 77)])
def test_training_processes_report_to_the_watchdog_of_the_process_that_started_them(tmp_path, how, code):
    (tmp_path / "training_of_the_test.py").write_text(TRAINING)
    ended = stepped(
        f"trains+{how}", "0.1", PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    )
    assert ended.returncode == code, ended.stderr
    assert ("nothing was reported, read or written" in ended.stderr) == (code == 77)


@pytest.mark.parametrize(
    "how", ["computes", "a child computes", "reports", "writes", "waits for a server", "means to pause"]
)
def test_work_that_is_only_slow_is_left_alone(how):
    ended = stepped(how)
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr


def test_without_a_limit_nothing_is_ended():
    ended = stepped("sleeps", minutes="0")
    assert ended.returncode == 0, ended.stderr


def test_the_limit_is_longer_than_a_child_may_wait_for_a_server():
    ended = stepped("a child waits for a server", CLIPTEA_PATIENCE="9")
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr


@pytest.mark.parametrize(
    ("minutes", "patience", "seconds"), [("1", "", 900.0), ("1", "45", 345.0), ("1", "0", 300.0), ("20", "", 1200.0)]
)
def test_the_limit_is_at_least_five_minutes_more_than_the_patience(monkeypatch, minutes, patience, seconds):
    limits = queue.SimpleQueue()
    monkeypatch.setattr(watchdog, "_watch", lambda limit, *_: limits.put(limit))
    monkeypatch.setattr(watchdog.faulthandler, "enable", lambda file: None)  # pytest has its own
    monkeypatch.setenv("CLIPTEA_STALL_MINUTES", minutes)
    monkeypatch.setenv("CLIPTEA_PATIENCE", patience)
    for name in ("CLIPTEA_STORE", "CLIPTEA_ALIVE", "CLIPTEA_STEP"):
        monkeypatch.delenv(name, raising=False)
    run_step("split", lambda: None)
    assert limits.get(timeout=10) == seconds


def test_a_limit_that_is_no_number_is_refused_in_one_line():
    ended = stepped("idle", minutes="soon")
    assert ended.returncode == 1
    assert "CLIPTEA_STALL_MINUTES is 'soon'; expected a number of minutes" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.fixture
def told(monkeypatch):
    """When work was last reported, after nothing was for long."""
    monkeypatch.setattr(watchdog, "_alive", 0.0)
    return lambda: watchdog._alive


class Server(FileStore):
    """A store whose requests count as work, as those of S3 do."""

    def put(self, key, data):
        watchdog.alive()
        super().put(key, data)

    def entry(self, key):
        watchdog.alive()
        return super().entry(key)


def test_status_updates_are_no_progress_of_the_work(tmp_path, told, monkeypatch):
    monkeypatch.setattr(board, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(follower, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(follower, "open_store", lambda patience: store)
    store = Server(tmp_path)
    with board.posting(store, "job", "train"), follower.watching(follower.Follower(key="x", seconds=60)):
        end = time.monotonic() + 60
        while time.monotonic() < end and not any(status.beat >= 2 for status in board.read_board(store, "job")):
            time.sleep(0.05)
    assert board.read_board(store, "job")[0].beat >= 2
    assert told() == 0.0
    store.put("x", b"")
    assert told() > 0


def test_threads_that_tell_others_of_the_work_are_no_progress_of_it(told):
    watchdog.aside("test", watchdog.alive, 60).join()
    assert told() == 0.0
    thread = threading.Thread(target=watchdog.alive)
    thread.start()
    thread.join()
    assert told() > 0


def test_a_system_that_hides_other_processes_or_has_no_more_files_does_not_stop_the_watchdog(monkeypatch):
    for error in (psutil.AccessDenied(1), OSError(errno.EMFILE, "Too many open files")):

        def refuses(self, *given, error=error, **more):
            raise error

        monkeypatch.setattr(psutil.Process, "children", refuses)
        assert watchdog._children() == []
        watchdog.kill_children()
        monkeypatch.setattr(psutil.Process, "io_counters", refuses)
        assert watchdog._work([os.getpid()])[0] > 0
