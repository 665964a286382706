"""docs/results.md: its figures against NumPy and scipy, and verdicts that can fail."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from claims.__main__ import PAGE, RESULTS
from claims.page import Table, render

WORLDS, SEEDS = ("4", "5", "6"), 3
MEANS = {
    "beyond/full": 0.7, "table3/no_ce": 0.68, "table3/no_cls_token": 0.3, "baselines/seen_only": 0.1,
    "baselines/no_pseudo": 0.6, "beyond/region": 0.8, "beyond/key": 0.71, "beyond-transductive/transductive": 0.85,
}  # fmt: skip


def results(means=MEANS, noise=0.01):
    rng, worlds = np.random.default_rng(0), {}
    for world in WORLDS:
        rows = [
            {
                "group": name.partition("/")[0], "variant": name.partition("/")[2], "seed": seed,
                **{score: float(mean + noise * rng.normal()) for score in ("pAcc", "miou_seen", "miou_unseen", "hiou")},
            }
            for name, mean in means.items()
            for seed in range(SEEDS)
        ]  # fmt: skip
        kmeans = {"ari": rng.random(), "naming": None}
        regions = {"beyond/full": kmeans, "table3/no_ce": kmeans, "beyond/region": {"ari": 0.5, "naming": 0.75}}
        names = {"the rule": {name: rng.random() for name in ("named", "right", "stuff", "seen")}}
        cost = {"view": 1.25, "regions of a view": 4.0}
        worlds[world] = {"rows": rows, "regions": regions, "names": names, "teacher": cost}
    return {
        "commit": "abc",
        "machine": {"cores": 2, "processor": "any"},
        "seeds": SEEDS,
        "overrides": [],
        "worlds": worlds,
    }


def values(found, variant):
    return {
        (world, row["seed"]): row["hiou"]
        for world, one in found["worlds"].items()
        for row in one["rows"]
        if f"{row['group']}/{row['variant']}" == variant
    }


@pytest.mark.parametrize("variant", ["table3/no_ce", "beyond/region"])
def test_differences_are_paired_by_world_and_seed(variant):
    found = results()
    ours, full = values(found, variant), values(found, "beyond/full")
    pairs = np.array([ours[key] - full[key] for key in full])
    low, high = scipy.stats.t.interval(0.95, len(pairs) - 1, pairs.mean(), scipy.stats.sem(pairs))
    difference = Table(found).difference(variant)
    np.testing.assert_allclose(difference, [pairs.mean(), low, high], rtol=1e-6)
    assert f"{100 * pairs.mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f})" in render(found)


def verdicts(means):
    lines = render(results(means)).partition("## Scores")[0].splitlines()
    return {
        line.split("`")[-2]: line.rstrip(" |").endswith("yes") for line in lines if line.endswith(("yes |", "**no** |"))
    }


def test_all_claims_hold_where_they_should():
    found = verdicts(MEANS)
    assert len(found) == 6  # of the last two, the best variant is shown
    assert all(found.values())


@pytest.mark.parametrize(
    ("variant", "mean"),
    [
        ("table3/no_ce", 0.75), ("table3/no_cls_token", 0.5), ("baselines/seen_only", 0.4),
        ("baselines/no_pseudo", 0.7), ("beyond/region", 0.73), ("beyond-transductive/transductive", 0.76),
    ],
)  # fmt: skip
def test_a_claim_that_does_not_hold_says_no(variant, mean):
    found = verdicts(MEANS | {variant: mean})
    assert [name for name, holds in found.items() if not holds] == [variant]


def test_regions_and_costs_are_means_over_the_worlds():
    found = results()
    page = render(found)
    ari = np.mean([world["regions"]["beyond/full"]["ari"] for world in found["worlds"].values()])
    assert f"| `beyond/full`, `table3/no_ce` | {ari:.2f} |  |" in page
    assert "| `beyond/region` | 0.50 | 0.75 |" in page
    assert "| view | 1.25 |" in page
    rule = [[*world["names"]["the rule"].values()] for world in found["worlds"].values()]
    assert f"| the rule | {' | '.join(f'{100 * mean:.1f}' for mean in np.mean(rule, axis=0))} |" in page


def test_the_same_students_have_one_row():
    found = results()
    for world in found["worlds"].values():
        full = [row for row in world["rows"] if (row["group"], row["variant"]) == ("beyond", "full")]
        world["rows"] += [row | {"group": "table3"} for row in full]
        world["regions"]["table3/full"] = world["regions"]["beyond/full"]
    assert render(found) == render(results())


def test_no_table_mixes_the_transductive_setting_with_the_inductive_one():
    inductive, transductive = render(results()).split("## Scores")[1:]
    assert "transductive/" not in inductive
    rows = [line for line in transductive.partition("## Regions")[0].splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == ["beyond-transductive/transductive"]


@pytest.mark.skipif(not RESULTS.exists(), reason="the claims have not been measured")
def test_the_page_is_made_from_the_results():
    assert Path(PAGE).read_text(encoding="utf-8") == render(json.loads(RESULTS.read_text(encoding="utf-8")))
