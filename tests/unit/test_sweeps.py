"""Sweeps: which trials a variant stands for, that they are always the same, and what is refused."""

import itertools
import math
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from cliptea import nested, settings
from cliptea.config import TRACKED
from cliptea.errors import ConfigError
from cliptea.preset_files import read_preset
from cliptea.run import Run, expand

PAGE = Path(__file__).parents[2] / "docs/settings.md"
VALIDATED = "train.validate_every=2"
LR = "train.lr: {low: 1e-5, high: 1e-1, log: true}"


def load(sweep, *overrides):
    return settings.load("smoke", ["variants=[mine]", f"variant_groups.mine.lr.sweep={sweep}", VALIDATED, *overrides])


def values(sweep, *overrides):
    """The settings of each trial, which are also those of its student."""
    found = []
    for variant in expand(load(sweep, *overrides)):
        trial = variant.members[0].trial
        config = nested.flatten(variant.config.model_dump())
        assert {key: config[key] for key in trial.settings} == trial.settings
        assert trial.sweep == "lr"
        found.append(tuple(trial.settings.values()))
    return found


def test_a_grid_has_all_combinations_in_order():
    rng = np.random.default_rng(5)
    rates, temperatures = (sorted(rng.uniform(1e-4, 1, number).tolist()) for number in (4, 3))
    backbones = ["demo_fpn", "segformer_b0"]
    grid = f"{{train.lr: {rates}, method.temperature: {temperatures}, student.backbone: {backbones}}}"
    assert values(grid) == list(itertools.product(rates, temperatures, backbones))


def test_a_trial_has_the_other_changes_of_its_variant_and_every_seed():
    config = load("{train.lr: [0.1, 0.2]}", "variant_groups.mine.lr.student.dropout=0.3", "seeds=2")
    variants = expand(config)
    assert [variant.label for variant in variants] == [
        f"mine/lr-0{number} lr_0.{number} seed {seed}" for seed in (0, 1) for number in (1, 2)
    ]
    assert {variant.config.student.dropout for variant in variants} == {0.3}
    run = Run(config=config, data_digest="d", fingerprint="f", job_id="j", tracking_run="t", variants=variants)
    assert Run.model_validate_json(run.model_dump_json()) == run


def test_names_of_trials_are_different_and_mlflow_accepts_them():
    found = expand(load("{train.lr: [1e-4, 3e-4], train.betas: [[0.9, 0.99], [0.8, 0.999]], train.amp: [true, false]}"))
    names = [variant.members[0].variant for variant in found]
    assert names[:2] == ["lr-01 lr_0.0001 betas_0.9_0.99 amp_True", "lr-02 lr_0.0001 betas_0.9_0.99 amp_False"]
    keys = ["lr", "weight_decay", "clip_norm", "head_lr_factor", "generator_lr_factor", "flip", "warmup_iterations"]
    long = expand(load("{" + ", ".join(f"train.{key}: [0.25, 1]" for key in keys[:6]) + "}"))
    names += [variant.members[0].variant for variant in long]
    assert all(TRACKED.fullmatch(name) for name in names)
    assert len(set(names[8:])) == 2**6


def test_a_file_of_variants_may_have_sweeps_beside_others(tmp_path):
    (tmp_path / "more.yaml").write_text("full:\nlr:\n  sweep:\n    train.lr: [1e-2, 2e-2]\n")
    (tmp_path / "mine.yaml").write_text("preset: smoke\nvariants: [more.yaml, more.yaml/lr]\n")
    config = settings.load("mine.yaml", [VALIDATED], read_preset(str(tmp_path / "mine.yaml")))
    assert [variant.label for variant in expand(config)] == ["more/full", "more/lr-01 lr_0.01", "more/lr-02 lr_0.02"]


def test_the_examples_of_the_page_are_sweeps(tmp_path):
    page = PAGE.read_text("utf-8")
    grid, drawn = (text for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "sweep:" in text)
    (tmp_path / "rates.yaml").write_text(grid)
    found = expand(settings.load("rates.yaml", [], read_preset(str(tmp_path / "rates.yaml"))))
    assert len(found) == 4
    assert f"`{found[0].label}`" in page
    (tmp_path / "drawn.yaml").write_text(drawn)
    assert len(expand(settings.load("smoke", [f"variants=[{tmp_path}/drawn.yaml]", VALIDATED]))) == 16


def search(trials, *space, **more):
    given = "".join(f", {key}: {value}" for key, value in more.items())
    return f"{{trials: {trials}, space: {{{', '.join(space)}}}{given}}}"


def test_quasi_random_numbers_fill_the_range_evenly():
    """After one random point come the first 16 of a scrambled Sobol sequence: one in each of 16 equal parts."""
    for seed in (0, 7):
        drawn = [math.log10(rate) for (rate,) in values(search(17, LR, seed=seed))]
        assert Counter(int((rate + 5) * 4) for rate in drawn[1:]) == dict.fromkeys(range(16), 1)


def test_random_numbers_have_the_distribution_that_was_asked_for():
    rest = ["train.iterations: {low: 1, high: 4}", "train.warmup_iterations: {low: 0, high: 30, step: 10}"]
    found = values(search(300, LR, *rest, "train.amp: [true, false]", sampler="random"))
    rates, iterations, warmup, amp = zip(*found, strict=True)
    assert scipy.stats.kstest(rates, scipy.stats.loguniform(1e-5, 1e-1).cdf).pvalue > 0.01
    for column, expected in ((iterations, [1, 2, 3, 4]), (warmup, [0, 10, 20, 30]), (amp, [False, True])):
        counts = Counter(column)
        assert sorted(counts) == expected
        assert scipy.stats.chisquare(list(counts.values())).pvalue > 0.01
    assert {type(number) for number in iterations} == {int}


@pytest.mark.parametrize("sampler", ["qmc", "random"])
def test_the_seed_determines_the_trials_and_more_trials_begin_with_the_same(sampler):
    five = values(search(5, LR, sampler=sampler, seed=3))
    assert values(search(8, LR, sampler=sampler, seed=3))[:5] == five
    assert not {*values(search(5, LR, sampler=sampler, seed=4))} & {*five}
    assert all(rate == float(f"{rate:.4g}") for (rate,) in five)


def test_lists_may_hold_lists_and_keep_the_order_of_the_settings():
    betas = [(0.9, 0.99), (0.8, 0.999), (0.7, 0.9)]
    space = [f"train.betas: {[list(one) for one in betas]}", "student.backbone: [demo_fpn, segformer_b0]", LR]
    found = expand(load(search(40, *space)))
    assert {variant.config.train.betas for variant in found} == {*betas}
    assert {tuple(variant.members[0].trial.settings) for variant in found} == {
        ("train.betas", "student.backbone", "train.lr")
    }


def test_trials_that_are_drawn_twice_are_trained_once():
    assert sorted(values(search(50, "train.amp: [true, false]"))) == [(False,), (True,)]


REFUSED = {
    "{}": r"mine.lr.sweep has no settings; expected settings with lists",
    "{train.lrr: [1]}": r"mine.lr, trial train.lrr=1: the setting train.lrr does not exist; .* perhaps train.lr",
    "{train.lr: []}": r"mine.lr.sweep.train.lr has no list of values",
    "{train.lr: 3}": r"mine.lr.sweep.train.lr has no list of values",
    "{train.lr: [1, 1.0]}": r"train.lr has the value 1.0 twice",
    "{train.lr: [1, -1]}": r"mine.lr, trial train.lr=-1.0: train.lr=-1.0 is refused: input should be greater than 0",
    "{train.batch_size: [4], train.processes: [3]}": r"trial train.batch_size=4, .*cannot be divided into 3 equal",
    "{train: {lr: [1]}}": r"varies the whole section train; expected the full name",
    "{train.held_out: [0.1, 0.2]}": r"varies train.held_out, which must be the same for all trials",
    "{method.transductive.names: [true, false]}": r"varies method.transductive.names, which must be the same",
    "{train.init_from: [null, 'models:/x/1']}": r"varies train.init_from, which must be the same for all trials",
    "{seeds: [1, 2]}": r"varies seeds, which must be the same",
    "{teacher.views: [1, 2]}": r"mine.lr changes teacher, which is the same for all students of a run",
    f"{{train.lr: {list(range(1, 35))}, train.iterations: {list(range(1, 31))}}}": r"has 1020 trials; expected at most",
    "{trials: 2}": r"sweep.space is refused: field required",
    search(1001, LR): r"sweep.trials is refused: input should be less than or equal to 1000",
    search(2, LR, sampler="tpe"): r"sweep.sampler is refused: input should be 'qmc' or 'random'",
    search(2, "train.lr: {low: 1}"): r"sweep.space.train.lr.high is refused: field required",
    search(2, "train.lr: {low: 1, high: .nan}"): r"sweep.space.train.lr.high is refused: ",
    search(2, "train.lr: {low: 2, high: 1}"): r"sweep.space.train.lr is refused: .*low <= high",
    search(2, "train.lr: {low: 0, high: 1, log: true}"): r"sweep.space.train.lr is refused: .*low > 0",
    search(2, "train.iterations: {low: 1.5, high: 9}"): r"train.iterations is a whole number",
    search(2, "train.iterations: {low: 1, high: 9, step: 0}"): r"space.train.iterations is refused: .*step > 0",
    search(2, "train.iterations: {low: 1, high: 9, step: 3}"): r"iterations is refused: high minus low is not a",
    search(2, "train.lr: {low: 0.1, high: 0.3, step: 0.15}"): r"lr is refused: high minus low is not a",
    search(2, "train.lr: {low: 0, high: 1, step: 1.0e-30}"): r"lr is refused: its step is too small for its range; exp",
    search(
        2, "train.lr: {low: 1, high: 2, steps: 3}"
    ): r"lr.steps is refused: extra inputs .*expected the keys low, high",
    "{train.lr: [nan, 1]}": r"trial train.lr=nan: train.lr=nan is refused",
    search(2, "train.amp: {low: 0, high: 1}"): r"space.train.amp is a range of numbers, which train.amp is not",
    search(2, "train.keep: [last, best]"): r"varies train.keep, which must be the same",
}


@pytest.mark.parametrize("sweep", REFUSED)
def test_what_is_no_sweep_is_refused_in_one_line(sweep):
    with pytest.raises(ConfigError, match=REFUSED[sweep]) as refused:
        load(sweep)
    assert "\n" not in str(refused.value)


def test_a_sweep_without_validation_is_refused():
    config = load("{train.lr: [0.1, 0.2]}", "train.validate_every=0")
    with pytest.raises(
        ConfigError, match=r"^the sweep mine/lr has no score .* never used .*set train.validate_every=N"
    ):
        expand(config)


def test_a_search_without_its_extra_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"needs the Python package optuna, .*run pip install '.\[sweep\]'"):
        load(search(2, LR))
    assert len(values("{train.lr: [0.1, 0.2]}")) == 2


@pytest.mark.parametrize(
    "sweep", ["{student.backbone: [demo_fpn, os:system]}", "{trials: 2, space: {student.backbone: [os:system]}}"]
)
def test_files_name_no_code_in_a_sweep_either(sweep, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"lr: {{sweep: {sweep}}}")
    with pytest.raises(ConfigError, match="names code to run, and files may not do that"):
        settings.load("smoke", [f"variants=[{tmp_path / 'mine.yaml'}]", VALIDATED])
