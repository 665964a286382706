"""What `cliptea run` does and shows."""

import json
import os
import pty
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from command import COMMAND, PATIENCE, Cliptea, environment

from cliptea.preset_files import LARGEST, read_preset
from cliptea.storage.marks import claim

VARIANTS = ["c/late", "a/early", "b/middle"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run, and the same run again."""
    cliptea = Cliptea(tmp_path_factory.mktemp("finished"))
    arguments = ("run", "--preset", "tiny", "--set", "train.iterations=7", "--set", "data.root=a b=c")
    fake = {"variants": VARIANTS, "wait": {"train c/late": 1}}
    yield cliptea, cliptea(*arguments, **fake), cliptea(*arguments, **fake)
    cliptea.close()


def test_a_run_ends_well(finished):
    cliptea, first, _ = finished
    assert (first.returncode, first.stderr) == (0, "")
    assert cliptea.processes() == []


def test_settings_reach_the_steps(finished):
    assert "split: preset tiny, overrides ['train.iterations=7', 'data.root=a b=c']" in finished[1].stdout


def test_the_settings_of_a_file_reach_the_steps(cliptea):
    (cliptea.folder / "my.yaml").write_text("preset: smoke\ndata: {root: a b, unseen: ['red, \"white\"']}\n")
    ended = cliptea("run", "--config", "my.yaml", variants=["a/b"])
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "split: preset my.yaml, overrides []" in ended.stdout
    (line,) = [line for line in ended.stdout.splitlines() if "split: settings " in line]
    sent = {"preset": "smoke", "data": {"root": "a b", "unseen": ['red, "white"']}}
    assert json.loads(line.partition("settings ")[2]) == sent


def test_a_file_of_the_largest_size_reaches_the_steps_in_any_script(cliptea):
    """As an argument of a process, which Linux limits to 128 KiB, its escaped letters would be too long."""
    names = [f"{'я' * 120}{number:03}" for number in range(250)]
    file = cliptea.folder / "my.yaml"
    file.write_text(f"preset: smoke\ndata: {{unseen: {json.dumps(names)}}}\n")
    text = read_preset(str(file))
    assert 0.9 < len(text.encode()) / LARGEST < 1
    assert len(json.dumps(text)) > 128 << 10
    ended = cliptea("run", "--config", "my.yaml", variants=["a/b"])
    assert (ended.returncode, ended.stderr) == (0, "")
    (line,) = [line for line in ended.stdout.splitlines() if "split: settings " in line]
    assert json.loads(line.partition("settings ")[2])["data"]["unseen"] == names


def test_the_fan_in_keeps_the_order_of_the_variants(finished):
    cliptea, first, _ = finished
    assert first.stdout.index("train a/early: done") < first.stdout.index("train c/late: done")
    assert cliptea.stored("compare")["order"] == cliptea.stored("promote")["order"] == VARIANTS


def test_integers_stay_integers(finished):
    rows = json.loads((finished[0].workdir / "results.json").read_text())
    assert [type(row["seed"]) for row in rows] == [int] * 3


def test_steps_share_the_cores(finished):
    cores = len(os.sched_getaffinity(0))
    alone, *shared = (finished[0].stored(step)["threads"] for step in ("split", "train a-early", "evaluate b-middle"))
    assert 1 <= alone <= cores
    assert shared == [max(1, alone // 2)] * 2


def test_the_tracking_run_is_closed(finished):
    lines = (finished[0].workdir / "store/finished.jsonl").read_text().splitlines()
    assert [json.loads(line)["state"] for line in lines] == ["SUCCEEDED", "SUCCEEDED"]


def test_plain_output_has_a_line_for_each_start_and_end(finished):
    _, first, _ = finished
    for step in ("resolve", "split", "tokens", "teacher", "compare", "promote", *(f"train {v}" for v in VARIANTS)):
        assert re.search(rf"^{step}: started$", first.stdout, re.MULTILINE)
        assert re.search(rf"^{step}: done in \d+\.\d s$", first.stdout, re.MULTILINE)
    assert "\x1b" not in first.stdout
    assert "KFP" not in first.stdout


def test_the_second_call_reuses_everything_and_says_so(finished):
    _, first, second = finished
    assert second.returncode == 0
    assert "0 steps reused, 10 made" in first.stdout
    assert "10 steps reused, 0 made" in second.stdout
    assert "train a/early: reused in" in second.stdout


def test_the_end_shows_scores_and_where_things_are(finished):
    cliptea, first, _ = finished
    rows = [line.split() for line in first.stdout.splitlines()]
    assert ["g/c/late", "b", "0", "0.500", "0.250", "0.125", "0.062"] in rows
    assert (cliptea.workdir / "report.html").read_text() == "<p>report</p>"
    assert "cliptea ui --workdir .cliptea" in first.stdout
    command = "cliptea predict .cliptea/images --model models:/cliptea-demo/3 --workdir .cliptea"
    assert f"images   .cliptea/images; segment them with: {command}" in first.stdout
    assert len(list((cliptea.workdir / "images").glob("*.png"))) == 12


def test_each_run_keeps_its_report_and_the_links_lead_to_the_newest_also_in_a_copy(finished, tmp_path):
    cliptea, _, _ = finished
    copy = shutil.copytree(cliptea.workdir, tmp_path / "copy", symlinks=True, ignore=shutil.ignore_patterns("run"))
    first, second = sorted((copy / "reports").iterdir())
    for run in (first, second):
        assert sorted(file.name for file in run.iterdir()) == ["SHA256SUMS", "report.html", "results.json"]
    assert (copy / "report.html").resolve() == (second / "report.html").resolve()
    assert (copy / "results.json").resolve() == (second / "results.json").resolve()


def test_logs_are_in_files(finished):
    logs = list((finished[0].workdir / "logs").iterdir())
    assert len(logs) == 2
    assert "KFP Executor" in logs[0].read_text()


def test_the_report_is_an_artifact_of_compare(finished):
    (report,) = list(finished[0].workdir.glob("kfp/*/compare/report"))[:1]
    assert report.read_text() == "<p>report</p>"


def test_scores_are_metrics_of_evaluate_and_compare(finished):
    told = [json.loads(path.read_text()) for path in finished[0].workdir.glob("kfp/**/executor_output.json")]
    found = [item["artifacts"]["metrics"]["artifacts"] for item in told if "metrics" in item.get("artifacts", {})]
    assert [item["metadata"] for (item,) in found] == [{"hiou": 0.0625}] * len(found)
    assert len(found) % (len(VARIANTS) + 1) == 0
    assert found


def test_one_failed_variant_fails_the_run_and_lets_the_others_go_on(cliptea):
    ended = cliptea("run", variants=["bad", "good", "odd"], fail={"train bad": "user", "train odd": "bug"})
    assert ended.returncode == 1
    errors = ended.stderr.splitlines()
    assert "error: train bad: the image a.png is 3 x 4; expected 5 x 6 as its mask; mend it" in errors
    assert "error: train odd: KeyError: 'no such thing'" in errors
    assert errors[-1].startswith("log: .cliptea/logs/")
    assert "Traceback" not in ended.stderr
    assert cliptea.stored("evaluate good")["label"] == "good"
    assert "compare" not in ended.stdout
    assert json.loads((cliptea.workdir / "store/finished.jsonl").read_text())["state"] == "FAILED"
    log = (cliptea.folder / errors[-1].removeprefix("log: ")).read_text()
    assert log.count("Traceback") == 1  # the bug's; the user's error is one line there, too
    assert "    error: the image a.png is 3 x 4" in log

    again = cliptea("run", variants=["bad", "good", "odd"])
    assert again.returncode == 0
    assert "5 steps reused, 5 made" in again.stdout


def test_a_promotion_that_fails_leaves_the_report_where_it_belongs(cliptea):
    ended = cliptea("run", fail={"promote": "user"})
    assert ended.returncode == 1
    first, report, log = ended.stderr.splitlines()
    assert first.startswith("error: promote: ")
    assert (report, log[:4]) == ("report: .cliptea/report.html", "log:")
    assert (cliptea.workdir / "report.html").read_text() == "<p>report</p>"
    assert len(json.loads((cliptea.workdir / "results.json").read_text())) == 2


@pytest.mark.parametrize(
    ("uri", "code", "words"),
    [
        ("http://127.0.0.1:9", 1, "MLflow does not answer at http://127.0.0.1:9 ([Errno 111] Connection refused)"),
        ("http://me:hunter2@127.0.0.1:9", 2, "MLFLOW_TRACKING_URI holds a password"),
    ],
)
def test_an_mlflow_that_cannot_be_used_starts_nothing(cliptea, monkeypatch, uri, code, words):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    ended = cliptea("run")
    assert (ended.returncode, ended.stderr.count("\n")) == (code, 1)
    assert ended.stderr.startswith(f"error: {words}; expected ")
    assert "hunter2" not in ended.stderr
    assert not cliptea.workdir.exists()


def test_debug_shows_the_traceback_of_a_step(cliptea):
    ended = cliptea("run", "--debug", fail={"split": "bug"})
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert "no such thing" in ended.stderr


def test_a_step_that_is_killed_from_outside_is_reported(cliptea):
    ended = cliptea("run", fail={"train one": "kill"})
    assert ended.returncode == 1
    assert "error: train one: its process was killed" in ended.stderr
    assert "train one: failed after" in ended.stdout


@pytest.mark.parametrize(("step", "code"), [("resolve", 2), ("split", 1)])
def test_a_setting_that_a_step_refuses_gives_code_2_if_nothing_was_started(cliptea, step, code):
    ended = cliptea("run", fail={step: "setting"})
    assert ended.returncode == code
    assert ended.stderr.splitlines()[0] == f"error: {step}: the class 'cat' is unknown"


def test_a_bad_setting_starts_nothing(cliptea):
    ended = cliptea("run", "--preset", "unknown")
    assert (ended.returncode, ended.stderr) == (2, "error: the preset 'unknown' does not exist\n")
    assert not cliptea.workdir.exists()


def test_a_user_module_of_the_same_name_shadows_nothing(cliptea):
    for name in ("kfp.py", "json.py", "data.py", "cliptea.py"):
        (cliptea.folder / name).write_text("raise RuntimeError('shadowed')")
    command = [COMMAND[0], "-P", *COMMAND[1:], "run"]
    subprocess.run(command, cwd=cliptea.folder, env=environment({"variants": ["one"]}), check=True, timeout=PATIENCE)


def test_old_runs_are_pruned_and_temporary_files_removed(cliptea, monkeypatch):
    temporary = cliptea.folder / "tmp dir"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    claim(cliptea.workdir, "work directory", "")
    for number in range(5):
        (cliptea.workdir / f"kfp/cliptea-2020-{number}").mkdir(parents=True)
    assert cliptea("run", variants=["one"]).returncode == 0
    assert len(list((cliptea.workdir / "kfp").iterdir())) == 3
    assert list(temporary.iterdir()) == []


def test_a_terminal_shows_bars_and_a_line_for_each_step(cliptea):
    fake = {"variants": ["one", "two"], "wait": {"train": 3}}
    code, shown = in_terminal(cliptea.folder, environment(fake) | {"TERM": "xterm-256color"})
    assert code == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    frames = re.findall(r"train +one +\S+ (\d+)/30 it, [\d.]+/s, [\d.]+ s left, loss", text)
    assert len(set(frames)) > 3
    both = re.search(r"train +(one|two) [^\n]+ it, [^\n]+\n *\r?train +(one|two) [^\n]+ it, ", text)
    assert both is not None, "two bars are alive at once"
    assert re.search(r"[\r\n]train +one +[3-9]\.\d s", text)
    assert "0 steps reused, 8 made" in text


def in_terminal(folder, env):
    reader, writer = pty.openpty()
    process = subprocess.Popen([*COMMAND, "run"], cwd=folder, env=env, stdout=writer, stderr=writer)
    os.close(writer)
    shown = b""
    try:
        while part := os.read(reader, 65536):
            shown += part
    except OSError:  # Linux: the other end is closed
        pass
    os.close(reader)
    return process.wait(timeout=PATIENCE), shown.decode()


@pytest.mark.parametrize("make", ["file", "below a file", "read-only"])
def test_an_impossible_work_directory_gives_one_line(cliptea, make):
    if make == "read-only":
        workdir = Path("/proc/cliptea")  # even root cannot write there
    else:
        (cliptea.folder / "file").write_text("")
        workdir = Path("file") if make == "file" else Path("file/below")
    ended = cliptea("run", "--workdir", str(workdir))
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: cannot use the work directory {workdir}: ")
    assert ended.stderr.count("\n") == 1
