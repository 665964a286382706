"""Which student is the best: among the trials of a sweep the held-out images decide, and never the val images."""

import numpy as np
import pytest

from cliptea import settings
from cliptea.evaluation.ranking import best_of, best_row, candidates, judge
from cliptea.evaluation.results import ResultRow
from cliptea.report.conclusions import reference_of
from cliptea.report.summaries import has_lost, summarise
from cliptea.report.sweep_tables import sweep_tables
from cliptea.run import Run, expand

SWEEP = "variant_groups.mine.lr.sweep={train.lr: [0.1, 0.2, 0.3]}"


def a_run(*overrides, variants="mine"):
    config = settings.load("smoke", [f"variants=[{variants}]", "train.validate_every=2", *overrides])
    return Run(config=config, data_digest="", fingerprint="", job_id="", tracking_run="", variants=expand(config))


def rows_of(run, scores):
    """Rows of a run.

    Args:
        scores: hIoU on val and score on held-out images, by the beginning of the variant's name.
    """
    found = []
    for variant in run.variants:
        for member in variant.members:
            hiou, held_out = next(scores[name] for name in scores if member.variant.startswith(name))
            row = ResultRow(
                variant=member.variant,
                group=member.group,
                backbone="demo_fpn",
                dataset=run.config.data.name,
                seed=variant.seed,
                iterations=8,
                gamma=0.0,
                pAcc=hiou,
                miou_seen=hiou,
                miou_unseen=hiou,
                hiou=hiou,
                per_class={},
                training_images_per_second=1.0,
                model_uri=variant.label,
                mlflow_run_id="",
                heldout_miou_seen=held_out[variant.seed] if isinstance(held_out, list) else held_out,
                trial=member.trial,
            )
            found.append(row)
    return found


def test_held_out_images_choose_the_trial_also_where_val_images_disagree():
    run = a_run(SWEEP)
    rows = rows_of(run, {"lr-01": (0.9, 0.5), "lr-02": (0.2, 0.7), "lr-03": (0.8, 0.6)})
    assert [row.variant for row in candidates(run, rows)] == ["lr-02 lr_0.2"]
    assert best_of(run, rows).variant == "lr-02 lr_0.2"
    assert reference_of(summarise(rows)).variant == "lr-02 lr_0.2"
    rows = [row.model_copy(update={"trial": None}) for row in rows]
    assert best_row(rows).variant == "lr-01 lr_0.1"  # the val images do disagree


def test_the_mean_over_seeds_decides_and_trials_are_sorted_by_it():
    rng = np.random.default_rng(0)
    for _ in range(20):
        run = a_run(SWEEP, "seeds=3")
        scores = {f"lr-0{number}": (rng.random(), rng.random(3).tolist()) for number in (1, 2, 3)}
        rows = rows_of(run, scores)
        (trials,) = judge(rows).values()
        means = {name: np.mean(held_out) for name, (_, held_out) in scores.items()}
        assert [seeds[0].variant[:5] for seeds in trials] == sorted(means, key=means.get, reverse=True)
        assert {row.variant[:5] for row in candidates(run, rows)} == {max(means, key=means.get)}
        assert len(candidates(run, rows)) == 3


def test_a_seed_without_score_counts_as_zero_for_the_report_as_well():
    run = a_run(SWEEP, "seeds=2")
    scores = {"lr-01": (0.9, [0.9, None]), "lr-02": (0.2, [0.6, 0.6]), "lr-03": (0.8, [0.5, 0.6])}
    rows = rows_of(run, scores)  # means: 0.45, 0.6 and 0.55
    summaries = summarise(rows)
    assert [row.variant for row in candidates(run, rows)] == ["lr-02 lr_0.2"] * 2
    assert [summary.variant for summary in summaries if not has_lost(summary, summaries)] == ["lr-02 lr_0.2"]
    (table,) = sweep_tables(summaries, run.config.data.name)
    assert [row["settings"]["train.lr"] for row in table["rows"]] == [0.2, 0.3, 0.1]


def test_a_trial_that_lost_is_no_candidate_under_another_name():
    same = "variant_groups.other.plain.train.lr=0.1"
    run = a_run(SWEEP, same, variants="mine, other")
    scores = {"lr-01": (0.9, 0.5), "lr-02": (0.2, 0.7), "lr-03": (0.8, 0.6), "plain": (0.9, 0.5)}
    assert [variant.label for variant in run.variants] == [
        "mine/lr-01 lr_0.1",
        "mine/lr-02 lr_0.2",
        "mine/lr-03 lr_0.3",
    ]
    assert [row.variant for row in candidates(run, rows_of(run, scores))] == ["lr-02 lr_0.2"]


def test_the_best_trial_competes_with_other_variants_on_val_images():
    run = a_run(SWEEP, "variant_groups.other.plain.train.lr=0.4", variants="mine, other")
    scores = {"lr-01": (0.9, 0.5), "lr-02": (0.2, 0.7), "lr-03": (0.8, 0.6), "plain": (0.3, 0.1)}
    assert best_of(run, rows_of(run, scores)).variant == "plain"
    assert best_of(run, rows_of(run, scores | {"plain": (0.1, 0.9)})).variant == "lr-02 lr_0.2"


@pytest.mark.parametrize(("base", "expected"), [("", ["lr-01 temperature_0.05"]), ("method.losses.ce=false", [])])
def test_a_sweep_of_the_method_is_no_ablation_but_a_sweep_of_an_ablation_is(base, expected):
    more = [f"variant_groups.mine.lr.{base}"] if base else []
    run = a_run("variant_groups.mine.lr.sweep={method.temperature: [0.05, 0.1]}", *more)
    rows = rows_of(run, {"lr-01": (0.1, 0.7), "lr-02": (0.9, 0.5)})
    assert [row.variant for row in candidates(run, rows)] == expected
    assert best_of(run, rows).variant == "lr-01 temperature_0.05"


@pytest.mark.parametrize("temperature", ["", "method.temperature=0.05"])
def test_a_trial_may_set_a_mapping_of_the_method(temperature):
    base = [f"variant_groups.mine.mix.{temperature}"] if temperature else []
    run = a_run("variant_groups.mine.mix.sweep={method.losses: [{ce: true}, {ce: false}]}", *base)
    assert {variant.config.method.losses.ce for variant in run.variants} == {True, False}
    rows = rows_of(run, {"mix-01": (0.9, 0.5), "mix-02": (0.1, 0.7)})
    assert [row.variant[:6] for row in candidates(run, rows)] == ([] if temperature else ["mix-02"])


def test_the_table_has_the_settings_of_each_trial_and_what_stored_tokens_saved():
    run = a_run(SWEEP, "seeds=2")
    rows = rows_of(run, {"lr-01": (0.9, [0.4, 0.6]), "lr-02": (0.2, [0.9, 0.5]), "lr-03": (0.8, [0.6, 0.6])})
    (table,) = sweep_tables(summarise(rows), run.config.data.name, 90)
    assert (table["group"], table["sweep"], table["keys"]) == ("mine", "lr", ["train.lr"])
    assert [row["settings"]["train.lr"] for row in table["rows"]] == [0.2, 0.3, 0.1]
    assert [row["best"] for row in table["rows"]] == [True, False, False]
    assert table["rows"][0]["summary"].held_out == pytest.approx((0.7, np.std([0.9, 0.5], ddof=1)))
    assert "saw 90 views once for all 6 students" in table["clip"]
    assert "seen 450 more" in table["clip"]
    assert sweep_tables(summarise(rows), run.config.data.name)[0]["clip"] == ""
    assert sweep_tables(summarise(rows), "another set") == []
