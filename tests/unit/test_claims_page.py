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
    "baselines/no_pseudo": 0.6, "beyond/region_local": 0.8, "beyond/key": 0.71,
    "beyond-transductive/transductive": 0.85,
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
        regions = {"beyond/full": kmeans, "table3/no_ce": kmeans, "beyond/region_local": {"ari": 0.5, "naming": 0.75}}
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


@pytest.mark.parametrize("variant", ["table3/no_ce", "beyond/region_local"])
def test_differences_are_paired_by_world_and_seed(variant):
    found = results()
    ours, full = values(found, variant), values(found, "beyond/full")
    pairs = np.array([ours[key] - full[key] for key in full])
    low, high = scipy.stats.t.interval(0.95, len(pairs) - 1, pairs.mean(), scipy.stats.sem(pairs))
    means = np.array([np.mean([ours[key] - full[key] for key in full if key[0] == world]) for world in WORLDS])
    wide = scipy.stats.t.interval(0.95, len(means) - 1, means.mean(), scipy.stats.sem(means))
    difference = Table(found).difference(variant)
    np.testing.assert_allclose(difference, [pairs.mean(), low, high, *wide], rtol=1e-6)
    shown = [f"{100 * value:+.1f}" for value in difference]
    assert "{} ({} to {}; {} to {})".format(*shown) in render(found)


def test_an_effect_that_is_not_in_all_worlds_does_not_hold():
    found = results()
    for row in found["worlds"]["4"]["rows"]:
        if row["variant"] == "region_local":
            row["hiou"] -= 0.12
    difference = Table(found).difference("beyond/region_local")
    assert difference.mean > 0.05
    assert difference.low > 0 > difference.low_worlds
    line = next(line for line in render(found).splitlines() if line.startswith("| `beyond/region_local`, which"))
    assert line.endswith("| **no** |")


def verdicts(means):
    """Whether each claim holds, by what it begins with and the variant that shows it."""
    lines = render(results(means)).partition("## Scores")[0].splitlines()
    claims = [line.strip("| ").split(" | ") for line in lines if line.endswith(("yes |", "**no** |"))]
    return {(text[:20], found.split("`")[1]): {"yes": True, "**no**": False}[holds] for text, found, holds in claims}


def test_all_claims_hold_where_they_should():
    found = verdicts(MEANS)
    assert len(found) == 8
    assert all(found.values())


@pytest.mark.parametrize(
    ("variant", "mean"),
    [
        ("table3/no_ce", 0.75), ("table3/no_cls_token", 0.5), ("baselines/seen_only", 0.4),
        ("baselines/no_pseudo", 0.7), ("beyond/region_local", 0.73), ("beyond-transductive/transductive", 0.76),
    ],
)  # fmt: skip
def test_a_claim_that_does_not_hold_says_no(variant, mean):
    found = verdicts(MEANS | {variant: mean})
    assert {name for (_, name), holds in found.items() if not holds} == {variant}


def test_regions_and_costs_are_means_over_the_worlds():
    found = results()
    page = render(found)
    ari = np.mean([world["regions"]["beyond/full"]["ari"] for world in found["worlds"].values()])
    assert f"| `beyond/full`, `table3/no_ce` | {ari:.2f} |  |" in page
    assert "| `beyond/region_local` | 0.50 | 0.75 |" in page
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
