"""Which students a run trains: groups, equal variants, and seeds of their own."""

import pytest

from cliptea import settings
from cliptea.errors import ConfigError
from cliptea.run import Run, expand, require_room


def labels(*overrides: str) -> list[str]:
    return [variant.label for variant in expand(settings.load("demo", list(overrides)))]


def test_equal_variants_are_trained_once_and_listed_in_each_group():
    variants = expand(settings.load("demo", ["variants=[table3, table4]", "seeds=1"]))
    members = {v.label: [(m.group, m.variant) for m in v.members] for v in variants}
    assert members["table3/full"] == [("table3", "full"), ("table4", "attention")]
    assert len(variants) == 5 + 3 - 1


def test_seeds_repeat_every_variant():
    assert labels("variants=[table5/mlp]", "seeds=2") == ["table5/mlp seed 0", "table5/mlp seed 1"]


def test_a_variant_may_have_more_seeds_than_the_run():
    variants = expand(settings.load("demo", ["variants=[table3/full, seeds]", "seeds=1"]))
    assert [v.seed for v in variants] == [0, 1, 2, 3, 4]
    assert [m.group for m in variants[0].members] == ["table3", "seeds"]
    assert {m.group for v in variants[1:] for m in v.members} == {"seeds"}


def test_two_students_of_one_name_are_refused():
    """Steps find a student by its label, so one of them would never be trained."""
    groups = [
        "seeds=1",
        "variants=[mine]",
        "variant_groups={mine: {full: {seeds: 2}, full seed 0: {train: {iterations: 3}}}}",
    ]
    with pytest.raises(ConfigError, match=r"^two students are called mine/full seed 0; expected another name"):
        labels(*groups)
    assert labels(*groups, "variant_groups.mine.full.seeds=1") == ["mine/full", "mine/full seed 0"]


def test_one_run_on_a_cluster_has_room_for_so_many_students():
    require_room(100, 100)
    require_room(201, 100, 3)
    with pytest.raises(ConfigError, match=r"201 students .* too many for one run .* at most 100 in each, .*--split 3;"):
        require_room(201, 100)
    with pytest.raises(ConfigError, match=r"201 students .* too many for 2 runs on a cluster, .*--split 3;"):
        require_room(201, 100, 2)
    with pytest.raises(ConfigError, match=r"^4 students .* cannot be split into 5 runs; expected at most 4 runs$"):
        require_room(4, 100, 5)


def test_a_variant_carries_its_own_config_through_a_dump():
    config = settings.load("demo", ["variants=[table3/no_ce, table4/max]", "seeds=2"])
    variants = expand(config)
    given = Run(
        config=config, data_digest="d", fingerprint="f", job_id="j", tracking_run="t", variants=variants
    )  # fmt: skip
    read = Run.model_validate_json(given.model_dump_json())
    assert read == given
    assert [v.config.method.losses.ce for v in read.variants] == [False, True, False, True]
    assert [v.config.method.global_token for v in read.variants] == ["attention", "max", "attention", "max"]
    assert {v.config.train == config.train for v in read.variants} == {True}


def test_students_that_know_names_of_unseen_classes_have_groups_of_their_own():
    """No table mixes the inductive and the transductive setting."""
    variants = expand(settings.load("demo", ["variants=[beyond, table3/full]"]))
    groups = {v.config.method.transductive.setting: {m.group for m in v.members} for v in variants}
    assert groups["inductive"] & groups["transductive"] == set()
    assert {m.group for v in variants if v.config.method.transductive.names for m in v.members} == {
        "beyond-transductive"
    }
    described = "method.clustering.region_tokens=crop"
    everything = expand(settings.load("demo", ["variants=[table3]", described, "method.transductive.names=true"]))
    assert {m.group for v in everything for m in v.members} == {"table3-transductive"}


@pytest.mark.parametrize(
    ("settings_of_method", "says"),
    [
        (["losses.local=true", "detach_centroids=true"], "losses.local=true trains nothing"),
        (["transductive.names=true", "pseudo_scope=batch"], "transductive.names=true needs one logit"),
        (["transductive.names=true", "pseudo_logit=cosine"], "transductive.names=true needs one logit"),
    ],
)
def test_settings_that_work_against_each_other_are_refused(settings_of_method, says):
    every = [f"method.{one}" for one in settings_of_method]
    with pytest.raises(ConfigError, match=says):
        settings.load("demo", [*every, "method.clustering.region_tokens=crop"])


@pytest.mark.parametrize(
    ("group", "setting", "says"),
    [
        ("baselines", "losses.ce=false", r"^variant baselines/seen_only: method\.losses are all false"),
        ("table3", "global_token=none", r"^method\.global_token"),  # the setting itself
    ],
)
def test_a_variant_that_a_setting_makes_unusable_is_named(group, setting, says):
    with pytest.raises(ConfigError, match=says):
        expand(settings.load("demo", [f"variants=[{group}]", f"method.{setting}"]))


def test_a_row_whose_other_losses_train_is_not_refused():
    """L_generate trains nothing in this row, but the rest does."""
    variants = expand(settings.load("demo", ["variants=[table5]", "method.detach_centroids=true"]))
    assert {v.config.method.generator for v in variants} == {"transformer_decoder", "mlp", "original"}


@pytest.mark.parametrize("setting", ["generator=region", "losses.local=true", "transductive.names=true"])
def test_what_reads_embeddings_of_regions_needs_them_stored(setting):
    with pytest.raises(ConfigError, match=f"{setting} needs .* expected clustering.region_tokens=crop or attention"):
        settings.load("demo", [f"method.{setting}"])
    settings.load("demo", [f"method.{setting}", "method.clustering.region_tokens=attention"])
