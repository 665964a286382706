"""However a run ends, nothing of it stays alive, and the next one goes on."""

import os
import signal
import socket
import time

import psutil
import pytest
from command import wait_until

SLOW = {"variants": ["one", "two"], "wait": {"train": 60}}


def start_training(cliptea, **fake):
    process = cliptea.start("run", **{**SLOW, **fake})
    assert wait_until(lambda: cliptea.active("train")), process.communicate()
    assert len(cliptea.processes()) >= 3  # runner, nursery, tasks
    return process


def tasks(cliptea, *only):
    """Living processes of the steps themselves, or only of some steps."""
    steps = {event["pid"] for event in cliptea.events() if not only or event["step"] in only}
    return [process for process in cliptea.processes() if process.pid in steps]


def gone(cliptea, seconds=5.0):
    return wait_until(lambda: not cliptea.processes(), seconds)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.long),
    ],
)
def test_a_signal_stops_everything(cliptea, number, code):
    process = start_training(cliptea, helper=["train"])
    process.send_signal(number)
    assert gone(cliptea)
    ended = cliptea.ended(process)
    assert ended.returncode == code
    assert ended.stderr == "stopped; run the same command again to resume\n"

    again = cliptea("run", variants=["one", "two"])
    assert again.returncode == 0
    assert "3 steps reused, 5 made" in again.stdout  # split, tokens and teacher


def test_a_step_that_ignores_sigterm_is_killed(cliptea):
    process = start_training(cliptea, stubborn=["train"])
    process.send_signal(signal.SIGTERM)
    assert gone(cliptea)
    assert cliptea.ended(process).returncode == 143


def test_a_second_signal_does_not_wait(cliptea):
    process = start_training(cliptea, stubborn=["train"])
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert gone(cliptea, 1.5)
    assert cliptea.ended(process).returncode == 130


def test_killing_the_command_kills_its_processes(cliptea):
    process = start_training(cliptea, stubborn=["train"], helper=["train"])
    process.kill()
    assert gone(cliptea)
    assert cliptea("run", variants=["one", "two"]).returncode == 0


def test_killing_the_runner_ends_the_command(cliptea):
    process = start_training(cliptea)
    (runner,) = psutil.Process(process.pid).children()
    runner.kill()
    assert gone(cliptea)
    ended = cliptea.ended(process)
    assert ended.returncode == 1
    assert "error: the run ended without an error message" in ended.stderr


def test_a_closed_output_ends_the_command(cliptea):
    process = start_training(cliptea)
    process.stdout.close()
    for task in tasks(cliptea):
        task.kill()  # which the command wants to tell about
    assert gone(cliptea)
    assert process.wait(timeout=10) != 0


def test_a_second_run_waits_for_the_first(cliptea):
    first = start_training(cliptea)
    second = cliptea.start("run", variants=["one", "two"])
    told = second.stderr.readline()
    user = f"process {first.pid} on {socket.gethostname()}"
    assert told == f"another run ({user}) is using .cliptea; waiting until it ends\n"
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    ended = cliptea.ended(second)
    assert ended.returncode == 0
    assert ended.stderr == ""  # it was said once
    assert "3 steps reused, 5 made" in ended.stdout


def test_a_waiting_run_can_be_stopped(cliptea):
    first = start_training(cliptea)
    second = cliptea.start("run", **SLOW)
    assert wait_until(lambda: "waiting" in (second.stderr.readline() or ""))
    second.send_signal(signal.SIGINT)
    assert cliptea.ended(second).returncode == 130
    assert first.poll() is None
    assert wait_until(cliptea.processes)


def test_a_run_waits_for_a_task_of_a_killed_run(cliptea):
    process = start_training(cliptea)
    (runner,) = psutil.Process(process.pid).children()
    task, *_ = tasks(cliptea, "train")  # the steps before it may be just ending
    for stopped in (task, process):
        os.kill(stopped.pid, signal.SIGSTOP)  # each would end the others
    runner.kill()
    process.kill()
    process.wait()  # until its lock is free
    assert wait_until(lambda: tasks(cliptea) == [task])
    next_run = cliptea.start("run", variants=["one", "two"])
    told = next_run.stderr.readline()
    assert told == "a step of a killed run is still running in .cliptea; waiting until it ends\n"
    os.kill(task.pid, signal.SIGCONT)
    assert cliptea.ended(next_run).returncode == 0
