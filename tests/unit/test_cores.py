"""Threads follow the cores that the process may use: its affinity, its quota, and the user's own limits."""

import os

import pytest
import torch

from cliptea import cores as counting
from cliptea import env
from cliptea.cores import cores, share_cores

MINE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "count"),
    [("max 100000", MINE), ("100000 100000", 1), ("150000 100000", 1), ("50000 100000", 1), ("9900000 100000", MINE),
     ("", MINE), ("nonsense", MINE)],
)  # fmt: skip
def test_the_quota_of_a_pod_counts(tmp_path, quota, count):
    (tmp_path / "cpu.max").write_text(quota)
    assert cores(tmp_path) == count


@pytest.mark.parametrize(
    ("quota", "count"), [(-1, MINE), (100000, 1), (150000, 1), (50000, 1), (9900000, MINE), ("", MINE)]
)
def test_the_quota_of_control_groups_of_version_1_counts(tmp_path, quota, count):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert cores(tmp_path) == count


def test_without_control_groups_all_cores_count(tmp_path):
    assert cores(tmp_path / "missing") == MINE


@pytest.mark.parametrize(
    ("tasks", "limit", "threads"), [(1, "", 8), (2, "", 4), (3, "", 2), (20, "", 1), (1, "3", 3), (4, "3", 2)]
)
def test_tasks_share_the_cores_below_the_limit_of_the_user(monkeypatch, tasks, limit, threads):
    monkeypatch.setattr(counting, "cores", lambda: 8)
    monkeypatch.setenv(env.THREADS.name, limit)
    monkeypatch.setenv(env.OMP_NUM_THREADS.name, "")
    before = torch.get_num_threads()
    try:
        share_cores(tasks)
        assert torch.get_num_threads() == threads
        assert (env.THREADS.get(), env.OMP_NUM_THREADS.get()) == (str(threads), str(threads))
    finally:
        torch.set_num_threads(before)
