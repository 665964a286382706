"""Tasks as forks: they must end as kfp.local's own processes do."""

import json
import os
import subprocess
import sys

import pytest
from command import HERE, SOURCES

from cliptea_pipeline.forks import NO_THREADS, WARM

SCRIPT = "python3 -m kfp.dsl.executor_main"
DRIVER = """
import json, sys, threading
from cliptea_pipeline.forks import Nursery
nursery = Nursery()
codes = {}
def run(name, source):
    arguments = ["--executor_input", json.dumps({"inputs": {}, "outputs": {"outputFile": sys.argv[2]}})]
    command = ["sh", "-ec", SCRIPT, source, *arguments, "--function_to_execute", "task"]
    codes[name] = nursery.run(command, {"TOLD": name})
threads = [threading.Thread(target=run, args=item) for item in json.loads(sys.argv[1]).items()]
for thread in threads:
    thread.start()
    if sys.argv[3] == "in turn": thread.join()
for thread in threads: thread.join()
print("CODES", json.dumps(codes))
""".replace("SCRIPT", repr(SCRIPT))


@pytest.fixture
def forked(tmp_path):
    def run(order="side by side", **bodies):
        """Exit codes and output of tasks with these bodies, side by side or in turn."""
        sources = {name: f"def task():\n    {body}\n" for name, body in bodies.items()}
        path = os.pathsep.join([str(HERE / "fakes"), SOURCES])
        ended = subprocess.run(
            [sys.executable, "-c", DRIVER, json.dumps(sources), str(tmp_path / "output.json"), order],
            check=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        output, codes = ended.stdout.rsplit("CODES", 1)
        return json.loads(codes), output

    return run


def test_exit_codes(forked):
    codes, output = forked(
        good="return None",
        exits="import sys; sys.exit(3)",
        says="raise SystemExit('why')",
        fails="raise KeyError('no such thing')",
        killed="import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        terminated="import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    )
    assert codes == {"good": 0, "exits": 3, "says": 1, "fails": 1, "killed": -9, "terminated": -15}
    assert output.count("Traceback") == 1
    assert "KeyError: 'no such thing'" in output


def test_tasks_have_their_own_environment_output_and_chance(forked):
    show = "import os, random; print('told', os.environ['TOLD'], random.random(), flush=True)"
    codes, output = forked(**{f"t{number}": show for number in range(8)})
    assert set(codes.values()) == {0}
    lines = [line[line.index("told") :].split() for line in output.splitlines() if "told" in line]
    assert sorted(line[1] for line in lines) == [f"t{number}" for number in range(8)]
    assert len({line[2] for line in lines}) == 8


def test_what_is_registered_for_the_end_is_done(forked):
    codes, output = forked(
        end="import atexit, threading, time; atexit.register(print, 'at the end'); "
        "threading.Thread(target=lambda: (time.sleep(0.3), print('thread'))).start()"
    )
    assert codes == {"end": 0}
    assert output.index("thread") < output.index("at the end")


def test_a_task_starts_processes_and_waits_for_them(forked):
    codes, _ = forked(parent="import subprocess, sys; sys.exit(subprocess.run(['sh', '-c', 'exit 5']).returncode)")
    assert codes == {"parent": 5}


def test_a_variable_of_the_user_holds_against_that_of_the_pipeline(forked, monkeypatch):
    body = "import os; print('TOLD is', os.environ['TOLD'])"
    assert "TOLD is a\n" in forked(a=body)[1]
    monkeypatch.setenv("TOLD", "user")
    assert "TOLD is user\n" in forked(a=body)[1]


def test_what_a_task_has_imported_is_there_for_the_next_one(forked):
    name = "scipy.optimize"
    assert name in WARM
    show = f"import sys; print('there' if {name!r} in sys.modules else 'missing')"
    codes, output = forked(order="in turn", first=show, importing=f"import {name}", last=show)
    assert codes == {"first": 0, "importing": 0, "last": 0}
    assert output.index("missing") < output.index("there")


def test_to_look_for_a_module_imports_it_nowhere(forked):
    look = "import importlib.util; importlib.util.find_spec('scipy.optimize'); importlib.util.find_spec('timm')"
    codes, output = forked(order="in turn", look=look, last="import sys; print('timm' in sys.modules, 'there')")
    assert codes == {"look": 0, "last": 0}
    assert "False there" in output


def test_a_module_that_cannot_be_imported_ends_no_other_task(forked, tmp_path):
    (tmp_path / "timm.py").write_text("raise RuntimeError('broken')")  # found first, in the folder that it runs in
    attempt = "import sys; sys.path.insert(0, '')\n    try: import timm\n    except RuntimeError: print('refused')"
    codes, output = forked(order="in turn", attempt=attempt, last="print('goes on')")
    assert codes == {"attempt": 0, "last": 0}
    assert output.index("refused") < output.index("goes on")


def test_what_every_task_needs_starts_no_thread():
    code = (
        "import importlib, os\n"
        "from cliptea_pipeline.forks import EVERY_TASK\n"
        "for name in EVERY_TASK: importlib.import_module(name)\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    environment = {**os.environ, **NO_THREADS, "_KFP_RUNTIME": "true"}
    ended = subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True)
    assert ended.stdout.split() == ["1"]


def test_what_a_task_leaves_running_does_not_hold_the_run(forked):
    codes, output = forked(
        leaves="import subprocess; print('before'); subprocess.Popen(['sleep', '45']); print('ends', flush=True)"
    )
    assert codes == {"leaves": 0}  # within the time limit of a minute, in which the driver starts as well
    assert "before" in output
    assert "ends" in output


WITHOUT_CLIENT = """
import os, sys
from cliptea.steps.kfp_inside import AS_TASK, import_local
components, local = import_local()
print(hasattr(components, "load_component_from_text"), hasattr(local, "SubprocessRunner"))
print([name for name in ("kfp.client", "kubernetes") if name in sys.modules], AS_TASK.keys() & os.environ.keys())
"""


def test_a_local_run_imports_no_client_of_kfp():
    ended = subprocess.run([sys.executable, "-c", WITHOUT_CLIENT], check=True, capture_output=True, text=True)
    assert ended.stdout.splitlines() == ["True True", "[] set()"]
