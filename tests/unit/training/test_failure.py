"""Who is at fault when several processes fail: the exit codes that a TrainJob's follower decides by."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from cliptea import env
from cliptea.errors import ClipteaError, Missing, ServerAway, Unusable
from cliptea.training import agent
from cliptea.training.distributed import left_alone
from cliptea.training.failure import reserve_room, store_error, stored_error
from cliptea.training.stopping import Deserted, Killed, Stopped

PAIR = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error [10.0.0.1]:32920: Connection reset by peer"
)
REMOTE = "NCCL error: ncclRemoteError: A call failed possibly due to a network error or a remote process exiting"


def after(first, then):
    then.__context__ = first
    return then


@pytest.mark.parametrize(
    ("error", "partners"),
    [
        (RuntimeError(PAIR), True),
        (dist.DistBackendError(REMOTE), True),
        (dist.DistNetworkError("The client socket has failed to connect to host"), True),
        (dist.DistStoreError("wait timeout after 300000ms"), True),
        (after(RuntimeError(PAIR), ServerAway("the checkpoint cannot be stored")), True),
        (dist.DistBackendError("ncclUnhandledCudaError: Call to CUDA function failed: out of memory"), False),
        (dist.DistBackendError("ncclInvalidUsage: Duplicate GPU detected"), False),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), False),
        (RuntimeError("shape mismatch"), False),
        (ServerAway("S3 does not answer"), False),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_error_is_ones_own_or_that_partners_have_gone(error, partners):
    assert left_alone(error) is partners


OWN, GONE = ClipteaError("the shard is damaged"), Missing("the object a.tar is missing")
OTHER = torch.cuda.OutOfMemoryError("CUDA out of\nmemory")


@pytest.mark.parametrize(
    ("errors", "kind", "text"),
    [
        ([OWN, Deserted("closed")], ClipteaError, "the shard is damaged"),
        ([Deserted("closed"), OWN], ClipteaError, "the shard is damaged"),
        ([Deserted("one"), Deserted("two")], Deserted, "the other training processes are gone (one)"),
        ([GONE, OWN], ClipteaError, "the shard is damaged"),
        ([Deserted("closed"), GONE], Missing, "the object a.tar is missing"),
        ([Killed("by SIGTERM"), GONE], Missing, "the object a.tar is missing"),
        ([Deserted("closed"), Killed("by SIGKILL")], ClipteaError, "by SIGKILL"),
        ([OTHER], ClipteaError, "OutOfMemoryError: CUDA out of memory"),
        ([Stopped(7), Deserted("closed")], Stopped, "iteration 7 is saved"),
        ([ServerAway("S3 is away")], ServerAway, "S3 is away"),
    ],
)
def test_a_failure_of_ones_own_counts_more_than_partners_that_have_gone(tmp_path, monkeypatch, errors, kind, text):
    monkeypatch.setenv(env.FAILURE.name, str(tmp_path / "failure.json"))
    for error in errors:
        store_error(error)
    found = stored_error(tmp_path / "failure.json")
    assert type(found) is kind
    assert text in str(found)


def test_a_failure_of_ones_own_that_is_told_meanwhile_is_not_lost(tmp_path, monkeypatch):
    """Processes fail at the same time, and one writes between another's look and its writing."""

    class Meanwhile(Deserted):
        def __str__(self):
            store_error(OWN)
            return super().__str__()

    monkeypatch.setenv(env.FAILURE.name, str(tmp_path / "failure.json"))
    store_error(Meanwhile("closed"))
    assert str(stored_error(tmp_path / "failure.json")) == "the shard is damaged"


def test_a_file_that_was_not_written_to_its_end_tells_nothing(tmp_path):
    (tmp_path / "failure.json").write_text('{"kind": "Clip')
    assert stored_error(tmp_path / "failure.json") is None
    assert stored_error(tmp_path / "none.json") is None


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (signal.SIGKILL, "a training process was killed by SIGKILL, probably for lack of memory; give it more memory"),
        (signal.SIGBUS, "was killed by SIGBUS: /dev/shm, the shared memory of data loading, is full"),
        (signal.SIGABRT, "was killed by SIGABRT"),  # of a process without partners
    ],
)
def test_torchrun_says_what_a_process_died_from_without_a_word(tmp_path, monkeypatch, number, text):
    script, failure = tmp_path / "dies.py", tmp_path / "failure.json"
    script.write_text(f"import os\nos.kill(os.getpid(), {int(number)})\n")
    monkeypatch.setenv(env.FAILURE.name, str(failure))
    command = [sys.executable, "-m", "cliptea.training.agent", "--standalone", "--nproc-per-node=1", str(script)]
    ended = subprocess.run(command, check=False, stderr=subprocess.PIPE, timeout=300)
    assert ended.returncode == 1, ended.stderr
    said = stored_error(failure)
    assert type(said) is ClipteaError
    assert text in str(said)


@pytest.mark.parametrize(
    ("gpus", "world", "kind"),
    [
        (True, ["--nproc-per-node=2"], Deserted),
        (True, ["--nnodes=2", "--nproc-per-node=1"], Deserted),
        (True, ["--nproc-per-node=1"], ClipteaError),
        (False, ["--nproc-per-node=2"], ClipteaError),
    ],
)
def test_an_abort_is_that_of_nccls_watchdog_where_there_is_one(tmp_path, monkeypatch, gpus, world, kind):
    def aborts(arguments):
        raise ChildFailedError("train", {0: ProcessFailure(0, 1, -signal.SIGABRT, "none")})

    monkeypatch.setenv(env.FAILURE.name, str(tmp_path / "failure.json"))
    monkeypatch.setattr(agent.run, "main", aborts)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    with pytest.raises(ChildFailedError):
        agent.main([*world, "train.py"])
    said = stored_error(tmp_path / "failure.json")
    assert type(said) is kind
    assert "SIGABRT" in str(said)


def failed(code, timestamp):
    failure = ProcessFailure(0, 1, code, "none")
    failure.timestamp = timestamp
    return failure


@pytest.mark.parametrize(
    ("failures", "killed"),
    [
        ([failed(-9, 10), failed(-15, 10), failed(-15, 10)], [9]),
        ([failed(-6, 10), failed(-9, 35), failed(-9, 35)], [6]),  # torchrun kills what does not stop in time
        ([failed(76, 10), failed(-15, 10), failed(-9, 35)], []),
        ([failed(1, 10), failed(-9, 35)], []),
        ([failed(-15, 10), failed(-15, 10)], [15]),
        ([failed(-9, 10), failed(-7, 10), failed(0, 10)], [7, 9]),
    ],
)
def test_what_torchrun_has_killed_itself_is_no_cause(failures, killed):
    assert agent._killers(failures) == killed


def test_that_the_disk_is_full_can_be_stored_on_a_full_disk(tmp_path, monkeypatch):
    failure = tmp_path / "failure.json"
    reserve_room(failure)
    monkeypatch.setenv(env.FAILURE.name, str(failure))
    opened = Path.open

    def full(self, mode="r", *given, **more):
        if "x" in mode and list(tmp_path.glob("*.reserve")):
            opened(self, mode).close()
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(self, mode, *given, **more)

    monkeypatch.setattr(Path, "open", full)
    store_error(Unusable("the disk is full"))
    assert str(stored_error(failure)) == "the disk is full"


def test_training_processes_import_no_more_of_kfp_than_a_task():
    code = (
        "import sys, cliptea.steps.train_process\n"
        "print([name for name in ('kfp.compiler', 'kfp_server_api', 'kubernetes') if name in sys.modules])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "_KFP_RUNTIME"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


LOADER = """
import os, sys, threading
from torch.utils.data import DataLoader, Dataset
from cliptea.errors import described

class Endless(Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, item):
        threading.Event().wait()

loaded = iter(DataLoader(Endless(), num_workers=1))
(worker,) = loaded._workers
threading.Timer(0.5, os.kill, (worker.pid, int(sys.argv[1]))).start()
try:
    next(loaded)
except RuntimeError as error:
    print(described(error))
"""


@pytest.mark.parametrize(
    ("number", "what"), [(signal.SIGKILL, "killed by SIGKILL, probably"), (signal.SIGBUS, "/dev/shm")]
)
def test_a_loading_process_that_is_killed_is_told_as_that(number, what):
    command = [sys.executable, "-c", LOADER, str(int(number))]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert "DataLoader worker" in ended.stdout
    assert what in ended.stdout
