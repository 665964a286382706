"""The runner of the benchmarks: one table, one file, whose throughputs `cliptea plan` reads."""

import copy
import json
import time
from threading import Thread
from typing import get_args

import pytest
import torch
from benchmarks import __main__ as bench
from benchmarks.measure import Row, interleaved, speed
from benchmarks.measure import machine as measured_machine
from benchmarks.page import render
from benchmarks.rows import reading
from benchmarks.rows.image_wait import Simulated
from typer.testing import CliRunner

from cliptea.plan import read_rates
from cliptea.serving.choices import Format
from cliptea_pipeline.cli import app


def test_a_row_is_printed_and_written(tmp_path, capsys):
    output = tmp_path / "results.json"
    assert bench.main(["--quick", "--only", "bytes_stored", "--only", "cache_size", "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    written = json.loads(output.read_text())
    assert [row["name"].partition(":")[0] for row in written["rows"]] == [
        "bytes stored a view",
        *["opening a cache of 100,000 views"] * 2,
    ]
    stored = written["rows"][0]
    assert stored["ratio"] <= stored["goal"] == 0.01
    assert stored["met"] is True
    assert stored["details"]["dense"] == pytest.approx(1 << 20, rel=0.01)
    assert "bytes stored a view" in shown
    assert "at most 0.01" in shown
    assert written["machine"]["cores"] >= 1
    assert written["images_per_second"] == {}


def test_the_row_of_the_pixel_losses_runs(tmp_path):
    output = tmp_path / "results.json"
    assert bench.main(["--quick", "--only", "pixel_losses", "--output", str(output)]) == 0
    speed, share, memory = json.loads(output.read_text())["rows"]
    assert (speed["goal"], share["goal"], memory["goal"]) == (1.8, 0.2, 0.1)
    assert 0 < share["ratio"] < 1


def test_the_rows_of_the_masks_run(tmp_path):
    output = tmp_path / "results.json"
    assert bench.main(["--quick", "--only", "masks", "--output", str(output)]) == 0
    speed, memory = json.loads(output.read_text())["rows"]
    assert (speed["goal"], memory["goal"], memory["at_most"]) == (1.3, 0.1, True)
    assert speed["details"] == {"equal": True}


def test_the_rows_of_the_report_and_the_digest_run(tmp_path):
    output = tmp_path / "results.json"
    assert bench.main(["--quick", "--only", "large_report", "--only", "data_digest", "--output", str(output)]) == 0
    goals = {row["name"].partition(",")[0]: row["goal"] for row in json.loads(output.read_text())["rows"]}
    assert goals == {
        "report of 4 models and 8 classes": 1,
        "digest of a data folder of 100 images : os.scandir with sizes": 1.5,
    }


def test_the_rows_of_evaluation_run_and_compare_masks(tmp_path):
    output = tmp_path / "results.json"
    assert bench.main(["--quick", "--only", "evaluation", "--output", str(output)]) == 0
    evaluation, predict = json.loads(output.read_text())["rows"]
    assert (evaluation["goal"], predict["goal"]) == (1.6, None)
    assert evaluation["details"]["equal_pixels"] > 0.999


def test_the_rows_of_waiting_for_images_run(tmp_path):
    output = tmp_path / "results.json"
    assert bench.main(["--quick", "--only", "image_wait", "--output", str(output)]) == 0
    one, two = json.loads(output.read_text())["rows"]
    assert (one["goal"], one["at_most"], two["goal"]) == (0.02, True, None)
    for row in (one, two):
        assert -1e-9 < row["ratio"] < 1  # apart from rounding, a share


def test_a_simulated_gpu_is_busy_for_as_long_as_it_says():
    times = []
    student, start = Simulated(0.01, times), time.perf_counter()
    threads = [Thread(target=student.logits, args=(torch.zeros(3, 3, 8, 8), torch.eye(5))) for _ in range(2)]
    copied = Thread(target=copy.deepcopy(student).logits, args=(torch.zeros(4, 3, 8, 8), torch.eye(5)))
    for thread in (*threads, copied):
        thread.start()
    for thread in (*threads, copied):
        thread.join()
    assert sorted(end - begin for begin, end in times) >= [0.03, 0.03, 0.04]
    assert time.perf_counter() - start >= 0.06  # one batch after the other


@pytest.mark.long
def test_the_rows_of_the_exports_compare_each_format_with_torch(tmp_path):
    pytest.importorskip("openvino", reason="needs the extra openvino")
    output = tmp_path / "results.json"
    assert bench.main(["--quick", "--only", "exports", "--output", str(output)]) == 0
    rows = json.loads(output.read_text())["rows"]
    assert [format in row["name"] for row, format in zip(rows, get_args(Format), strict=True)] == [True] * 3
    for row in rows:
        assert row["details"]["equal_pixels"] > 0.999
        assert row["details"]["difference"] < 1e-4


def test_rates_go_to_the_file_that_plan_reads(tmp_path, monkeypatch, capsys):
    rows = [Row("one", "a", "b", 1.0, 2.0, rates={"teacher": 7200.0}), Row("two", "a", "b", 1.0, rates={"demo_fpn": 5})]
    output = tmp_path / "results.json"
    monkeypatch.setattr(reading, "measure", lambda bench: rows)
    monkeypatch.setattr(bench, "machine", lambda: measured_machine() | {"gpu": "H200"})
    assert bench.main(["--only", "reading", "--output", str(output)]) == 0
    assert read_rates(output, ["demo_fpn=9"]) == {"teacher": 7200.0, "demo_fpn": 9.0}
    assert "missed" in capsys.readouterr().out
    planned = CliRunner().invoke(app, ["plan", "--preset", "smoke", "--benchmark", str(output)])
    assert planned.exit_code == 0, planned.output
    assert "0.0 GPU hours" in planned.output


def test_every_row_of_the_folder_is_known_and_the_longest_are_asked_for():
    assert set(bench.NAMES) > bench.LONG
    with pytest.raises(SystemExit):
        bench.main(["--only", "nothing"])


@pytest.mark.parametrize(("ratio", "goal", "at_most", "met"), [(0.9, 0.9, False, True), (0.8, 0.9, False, False),
                         (0.01, 0.02, True, True), (0.03, 0.02, True, False), (5.0, None, False, None)])  # fmt: skip
def test_a_goal_is_a_least_or_a_most(ratio, goal, at_most, met):
    assert Row("", "", "", ratio, goal, at_most).met is met


def test_works_take_turns_and_the_median_of_ratios_counts():
    done = []
    seconds = interleaved(3, lambda: done.append("a"), lambda: done.append("b"))
    assert "".join(done) == "abbaab"
    assert [len(each) for each in seconds] == [3, 3]
    assert speed([1.0, 2.0, 9.0], [3.0, 4.0, 9.0]) == 2.0


def test_a_single_row_replaces_only_its_own_rows(tmp_path):
    output = tmp_path / "results.json"
    for names in (["bytes_stored", "scale"], ["scale"], ["bytes_stored"]):
        assert bench.main(["--quick", *(f"--only={name}" for name in names), "--output", str(output)]) == 0
        rows = json.loads(output.read_text())["rows"]
        assert [row["module"] for row in rows] == ["bytes_stored", "scale", "scale"]
    output.write_text(output.read_text().replace('"cores": ', '"cores": 1'))  # of another machine
    assert bench.main(["--quick", "--only=bytes_stored", "--output", str(output)]) == 0
    assert [row["module"] for row in json.loads(output.read_text())["rows"]] == ["bytes_stored"]


@pytest.mark.parametrize("folder", [".", "h200"])
def test_the_page_is_made_from_the_committed_results_and_explains_every_missed_goal(folder):
    file = bench.RESULTS.parent / folder / "results.json"
    results = json.loads(file.read_text())
    assert file.with_name(bench.PAGE).read_text() == render(results)
    assert results["quick"] is False
    assert [row["name"] for row in results["rows"] if row["met"] is False and not row["note"]] == []
