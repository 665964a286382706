"""Means and spreads over seeds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliptea.errors import DataError
from cliptea.evaluation.results import Inference, ResultRow, Scores
from cliptea.report.summaries import spread, summarise, summarise_gammas


def row(**changes) -> ResultRow:
    values = {
        "variant": "full",
        "group": "table3",
        "backbone": "demo_fpn",
        "dataset": "demo",
        "seed": 0,
        "iterations": 300,
        "gamma": 0.0,
        "pAcc": 0.9,
        "miou_seen": 0.75,
        "miou_unseen": 0.5,
        "hiou": 0.6,
        "per_class": {"zebra": 0.5, "cow": 0.75, "bee": None},
        "training_images_per_second": 100.0,
        "model_uri": "runs:/a/model",
        "mlflow_run_id": "a",
    }
    return ResultRow(**(values | changes))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_spread_is_numpy_s_mean_and_sample_deviation(values):
    found = spread([*values, None])
    assert found.mean == pytest.approx(np.mean(values))
    assert found.sd == pytest.approx(np.std(values, ddof=1), abs=1e-12)


def test_one_value_has_no_deviation_and_none_has_no_mean():
    assert (spread([0.5]).mean, spread([0.5]).sd) == (0.5, None)
    assert spread([None]) == spread([]) == (None, None)


def test_speeds_of_other_devices_do_not_count():
    cpu = Inference(
        device="CPU",
        threads=2,
        precision="float32",
        size="64x64",
        latency_ms=10.0,
        images_per_second=100.0,
        peak_memory_mib=None,
        parameters=1,
        gflops=1.0,
    )
    gpu = cpu.model_copy(update={"device": "H100", "latency_ms": 1.0, "images_per_second": 1000.0})
    more = cpu.model_copy(update={"threads": 4, "latency_ms": 5.0, "images_per_second": 200.0})
    slower = cpu.model_copy(update={"latency_ms": 30.0, "images_per_second": 50.0})
    (found,) = summarise([row(seed=n, inference=one) for n, one in enumerate((None, cpu, gpu, more, slower))])
    assert found.inference == cpu
    assert found.latency_ms == (pytest.approx(20), pytest.approx(np.std([10, 30], ddof=1)))
    assert found.images_per_second.mean == 75


def test_summaries_hold_seeds_apart_from_variants_groups_and_sets():
    rows = [row(seed=seed, hiou=hiou) for seed, hiou in ((2, 0.8), (0, 0.6), (1, 0.7))]
    rows += [row(group="baselines"), row(dataset="other"), row(variant="no_ce")]
    first, *others = summarise(rows)
    assert [(s.group, s.variant, s.dataset) for s in others] == [
        ("baselines", "full", "demo"),
        ("table3", "full", "other"),
        ("table3", "no_ce", "demo"),
    ]
    assert first.seeds == (0, 1, 2)
    assert first.by_seed["hiou"] == {0: 0.6, 1: 0.7, 2: 0.8}
    assert first.scores["hiou"].mean == pytest.approx(0.7)
    assert first.scores["hiou"].sd == pytest.approx(0.1)
    assert first.scores["pAcc"].sd == 0


def test_a_class_without_pixels_in_one_seed_counts_where_it_has_some():
    rows = [row(per_class={"zebra": 0.5, "bee": None}), row(seed=1, per_class={"zebra": None, "bee": None})]
    classes = summarise(rows)[0].per_class
    assert classes["zebra"] == (0.5, None)
    assert classes["bee"].mean is None


def test_a_doubled_seed_is_refused():
    with pytest.raises(DataError, match="two results for table3/full on demo with seed 0"):
        summarise([row(), row(hiou=0.7)])


def test_sweep_is_averaged_over_seeds_with_gammas_in_order():
    def scores(hiou):
        return Scores(pAcc=0.5, miou_seen=0.5, miou_unseen=0.5, hiou=hiou)

    sweeps = [(row(), {"10": scores(0.2), "2": scores(0.4)}), (row(seed=1), {"2.0": scores(0.6)})]
    points = summarise_gammas(sweeps)["table3", "full", "demo"]
    assert list(points) == [2.0, 10.0]
    assert points[2.0]["hiou"].mean == pytest.approx(0.5)
    assert points[10.0]["hiou"].sd is None
