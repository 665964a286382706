"""What may be concluded: intervals, verdicts, and the comparison with the paper."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cliptea import settings
from cliptea.evaluation.results import METRICS, ResultRow
from cliptea.report.conclusions import compare, paper_values, reference_of, t_interval
from cliptea.report.paper import paper, paper_row, paper_sign
from cliptea.report.summaries import Summary, summarise


def summaries(
    scores: dict[str, list[float]],
    group: str = "table3",
    dataset: str = "demo",
    seeds=itertools.count,
    iterations: int = 300,
    gamma: float = 0.0,
) -> list[Summary]:
    rows = [
        ResultRow(
            variant=variant,
            group=group,
            backbone="demo_fpn",
            dataset=dataset,
            seed=seed,
            iterations=iterations,
            gamma=gamma,
            pAcc=value,
            miou_seen=value,
            miou_unseen=value,
            hiou=value,
            per_class={},
            training_images_per_second=1.0,
            model_uri="",
            mlflow_run_id="",
        )
        for variant, values in scores.items()
        for seed, value in zip(seeds(), values, strict=False)
    ]
    return summarise(rows)


def verdict(scores: dict[str, list[float]], group: str = "table3"):
    return next(c for c in compare(summaries(scores, group)) if c.metric == "hiou")


@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=6))
def test_the_interval_is_scipy_s(values):
    mean, low, high = t_interval(values)
    assert mean == pytest.approx(np.mean(values), abs=1e-12)
    if np.std(values, ddof=1) > 1e-9:
        expected = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
        assert (low, high) == pytest.approx(expected, abs=1e-9)


def test_the_interval_of_two_values_by_hand():
    # t with one degree of freedom is Cauchy: tan(0.475 pi) = 12.7062
    assert t_interval([0.0, 0.2])[1:] == pytest.approx((0.1 - 0.1 * 12.7062, 0.1 + 0.1 * 12.7062), abs=1e-5)


def test_one_value_has_no_interval():
    with pytest.raises(ValueError, match="at least two"):
        t_interval([0.1])


def test_the_interval_holds_the_truth_19_times_in_20():
    draws = np.random.default_rng(0).normal(0.03, 0.1, (2000, 3))
    held = [low <= 0.03 <= high for _, low, high in (t_interval(list(draw)) for draw in draws)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_differences_are_paired_by_seed():
    # the seeds move both by 0.3, the variant costs 0.02 in each: unpaired nothing could be said
    c = verdict({"full": [0.3, 0.6, 0.9], "no_ce": [0.28, 0.581, 0.879]})
    assert (c.verdict, c.seeds) == ("lower", (0, 1, 2))
    assert c.difference == pytest.approx(-0.02)
    assert c.agreement == "same sign"


def test_only_common_seeds_count():
    rows = summaries({"full": [0.5, 0.6]}) + summaries({"no_ce": [0.4, 0.4, 0.4]}, seeds=lambda: itertools.count(1))
    c = compare(rows)[0]
    assert c.seeds == (1,)
    assert c.verdict == "one seed: no conclusion"


def test_no_common_seed():
    rows = summaries({"full": [0.5]}) + summaries({"no_ce": [0.4]}, seeds=lambda: itertools.count(7))
    assert compare(rows)[0].verdict == "no common seed"


@pytest.mark.parametrize(
    ("variant", "values", "expected", "agreement"),
    [
        ("no_ce", [0.6, 0.61, 0.6], "lower", "same sign"),
        ("no_ce", [0.8, 0.81, 0.8], "higher", "opposite sign"),
        ("no_ce", [0.6, 0.8, 0.75], "tie", "not decided"),
        ("no_ce", [0.2], "one seed: no conclusion", "not decided"),
        ("no_generate", [0.6, 0.61, 0.6], "lower", "tie"),  # the paper's 0.2 has no sign
        ("no_generate", [0.2], "one seed: no conclusion", "not decided"),
        ("own_idea", [0.6, 0.61, 0.6], "lower", None),
    ],
)
def test_verdict_and_agreement(variant, values, expected, agreement):
    c = verdict({"full": [0.7, 0.71, 0.7], variant: values})
    assert (c.verdict, c.agreement) == (expected, agreement)


def test_one_seed_shows_no_difference():
    c = verdict({"full": [0.7], "no_ce": [0.1]})
    assert (c.difference, c.low, c.high) == (None, None, None)


def test_an_equal_variant_is_a_tie():
    c = verdict({"full": [0.7, 0.6], "no_generate": [0.7, 0.6]})
    assert (c.verdict, c.agreement, c.low, c.high) == ("tie", "tie", 0, 0)


@pytest.mark.parametrize(
    ("group", "names", "reference"),
    [
        ("table3", ["no_ce", "full"], "full"),
        ("table4", ["max", "attention", "mean"], "attention"),
        ("table5", ["mlp", "original", "transformer_decoder"], "transformer_decoder"),
        ("baselines", ["seen_only", "full"], "full"),
        ("mine", ["b", "full"], "full"),
        ("backbones", ["segformer_b0", "best", "demo_fpn"], "best"),
    ],
)
def test_the_reference_of_a_group(group, names, reference):
    scores = {name: [0.5, 0.6] for name in names} | {name: [0.9, 0.9] for name in names if name == "best"}
    found = reference_of(summaries(scores, group))
    assert found is not None
    assert found.variant == reference
    compared = compare(summaries(scores, group))
    assert {c.reference for c in compared} == {reference}
    assert {(c.variant, c.metric) for c in compared} == {
        (name, metric) for name in names if name != reference for metric in ("hiou", "miou_unseen")
    }


IMAGES = {
    "voc12": {"train": 10582, "val": 1449},
    "coco_stuff164k": {"train": 118287, "val": 5000},
    "pascal_context": {"train": 4996, "val": 5104},
    "pascal_context59": {"train": 4998, "val": 5105},
}


UNSEEN = ["tvmonitor", "train", "sheep", "sofa", "pottedplant"]  # those of VOC in the papers, in another order


def protocol(preset: str, *overrides: str) -> dict:
    """The resolved settings of a run."""
    return settings.load(preset, overrides).model_dump(mode="json")


def test_values_stand_beside_the_paper_s_only_on_its_own_sets():
    scores, context = {"full": [0.45, 0.47], "no_ce": [0.384], "own_idea": [0.5]}, protocol("pascal_context")
    assert paper_values(summaries(scores), "demo", context, IMAGES) == ([], [])
    assert paper_values(summaries(scores, dataset="pascal_context"), "demo", context, IMAGES) == ([], [])
    there = summaries(scores, dataset="pascal_context59", iterations=20000, gamma=1.5)
    values, otherwise = paper_values(there, "pascal_context", context, IMAGES)
    assert otherwise == []
    assert {v.variant for v in values} == {"full", "no_ce"}
    by_key = {(v.variant, v.metric): v for v in values}
    assert by_key["full", "hiou"].ours == pytest.approx(0.46)
    assert by_key["full", "hiou"].printed == pytest.approx(0.454)
    assert by_key["no_ce", "hiou"].difference == pytest.approx(0, abs=1e-9)
    assert "20 000" in by_key["full", "hiou"].setting


# One changed setting of every kind that changes the result, in a run that is otherwise the paper's.
CHANGES = {
    "train.batch_size=8": "train.batch_size is 8 (paper 16)",
    "train.lr=1e-3": "train.lr is 0.001 (paper 6e-05)",
    "train.accumulate=2": "train.accumulate is 2 (paper 1)",
    "teacher.crop=224": "teacher.crop is 224 (paper 512)",
    "teacher.views=4": "teacher.views is 4 (paper 8)",
    "teacher.weights=laion2b": "teacher.weights is laion2b (paper OpenAI's CLIP)",
    "teacher.templates=multi": "teacher.templates is multi (paper single)",
    "teacher.text_features=a.npy": "teacher.text_features is a.npy (paper none)",
    "data.unseen=[cow]": "data.unseen is ['cow'] (paper its own list)",
    "data.train_list=train": "data.train_list is train (paper its own list)",
    "method.bank_iterations=0": "method.bank_iterations is 0 (paper 24)",
    "method.losses.focal_weight=20": "method.losses.focal_weight is 20.0 (paper 100.0)",
    "method.clustering.rounds=3": "method.clustering.rounds is 3 (paper 10)",
    "student.pretrained=false": "student.pretrained is False (paper True)",
    "student.dropout=0": "student.dropout is 0.0 (paper 0.1)",
    "evaluation.scale=[512,512]": "evaluation.scale is [512, 512] (paper [2048, 512])",
    "evaluation.mode=slide": "evaluation.mode is slide (paper whole)",
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_other_setting_keeps_the_paper_s_values_away_and_is_named(change):
    there = summaries({"swin_b": [0.85]}, "table1", "voc12", iterations=20000, gamma=1.5)
    assert paper_values(there, "voc12", protocol("voc12", change), IMAGES) == ([], [CHANGES[change]])


@pytest.mark.parametrize(("part", "paper"), [("train", 10582), ("val", 1449)])
def test_other_lists_of_images_keep_the_paper_s_values_away(part, paper):
    there = summaries({"swin_b": [0.85]}, "table1", "voc12", iterations=20000, gamma=1.5)
    images = {"voc12": IMAGES["voc12"] | {part: 1000}}
    says = f"the number of {part} images of voc12 is 1000 (paper {paper})"
    assert paper_values(there, "voc12", protocol("voc12"), images) == ([], [says])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("data.synonyms.cow=[cow, calf]", "data.synonyms is {'cow': ['cow', 'calf']} (paper none)"),
        ("teacher.templates=['a {}.']", "teacher.templates is ['a {}.'] (paper single)"),
    ],
)
def test_own_prompts_and_names_keep_the_paper_s_values_away(change, says):
    there = summaries({"swin_b": [0.85]}, "table1", "voc12", iterations=20000, gamma=1.5)
    assert paper_values(there, "voc12", protocol("voc12", change), IMAGES) == ([], [says])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            "evaluation.sets.voc12.gamma=7",
            ["evaluation.sets.voc12.gamma is 7.0 (not stated in the paper; 0 is assumed)"],
        ),
        ("evaluation.sets.voc12.unseen=[cow]", ["evaluation.sets.voc12.unseen is ['cow'] (paper its own list)"]),
        (f"evaluation.sets.voc12.unseen={UNSEEN}", []),
    ],
)
def test_the_settings_of_a_further_set_are_those_of_its_own_protocol(change, says):
    there = summaries({"swin_b": [0.85]}, "table2", "voc12", iterations=80000, gamma=0.0)
    run = protocol("coco_stuff164k", "evaluation.sets.voc12.root=/v", "evaluation.sets.voc12.templates=single", change)
    values, otherwise = paper_values(there, "coco_stuff164k", run, IMAGES)
    assert (otherwise, bool(values)) == (says, not says)


def test_code_with_the_name_of_a_data_set_is_another_data_set():
    there = summaries({"full": [0.45]}, dataset="pascal_context59", iterations=20000, gamma=1.5)
    images = {"pascal_context59": IMAGES["pascal_context"]}
    run = protocol("pascal_context", "data.dataset=my.mod:pascal_context59")
    says = "data.dataset is my.mod:pascal_context59 (paper pascal_context)"
    assert paper_values(there, "pascal_context59", run, images) == ([], [says])


def test_every_difference_is_named():
    there = summaries({"swin_b": [0.85]}, "table1", "voc12", iterations=300, gamma=1.5)
    settings_ = protocol("voc12", *CHANGES, "train.iterations=300")
    _, otherwise = paper_values(there, "voc12", settings_, IMAGES)
    assert sorted(otherwise) == sorted([*CHANGES.values(), "train.iterations is 300 (paper 20000)"])


def test_settings_that_measure_the_same_do_not_matter():
    same = ("data.root=/d", "data.train_list=trainaug", "train.workers=0", "train.processes=4", "seeds=3")
    same += ("evaluation.workers=3", "evaluation.batch_size=3", "data.max_bad=5", f"data.unseen={UNSEEN}")
    same += ("data.shard_mib=8", "evaluation.figures=2", "promotion.margin=0.1", "teacher.keep_dense=false")
    there = summaries({"swin_b": [0.85]}, "table1", "voc12", iterations=20000, gamma=1.5)
    values, otherwise = paper_values(there, "voc12", protocol("voc12", *same), IMAGES)
    assert (len(values), otherwise) == (4, [])


def test_the_paper_s_clip_is_known_by_its_content():
    there = summaries({"swin_b": [0.85]}, "table1", "voc12", iterations=20000, gamma=1.5)
    file = protocol("voc12", "teacher.weights=/w/ViT-B-16.pt")
    published = "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"  # in the address of OpenAI's file
    assert len(paper_values(there, "voc12", file, IMAGES, published)[0]) == 4
    other = ["teacher.weights is /w/ViT-B-16.pt (paper OpenAI's CLIP)"]
    assert paper_values(there, "voc12", file, IMAGES, "0" * 64) == ([], other)


@pytest.mark.parametrize(("variant", "gamma", "wanted"), [("full", 5.0, "1.5"), ("no_cls_token", 1.5, "5")])
def test_each_row_is_measured_with_its_own_gamma(variant, gamma, wanted):
    there = summaries({variant: [0.4]}, dataset="pascal_context", iterations=20000, gamma=gamma)
    _, otherwise = paper_values(there, "pascal_context", protocol("pascal_context"), IMAGES)
    assert otherwise == [f"the gamma of {variant} is {gamma:g} (paper {wanted})"]
    right = summaries({variant: [0.4]}, dataset="pascal_context", iterations=20000, gamma=float(wanted))
    assert paper_values(right, "pascal_context", protocol("pascal_context"), IMAGES)[1] == []


@pytest.mark.parametrize("group", ["backbones", "table1", "table2"])
def test_backbones_find_table_1_or_across_sets_table_2(group):
    further = ("evaluation.sets.voc12.root=/v", "evaluation.sets.voc12.templates=single")
    at_home = summaries({"swin_b": [0.5]}, group, "voc12", iterations=20000, gamma=1.5)
    abroad = summaries({"swin_b": [0.5]}, group, "voc12", iterations=80000)
    same, _ = paper_values(at_home, "voc12", protocol("voc12"), IMAGES)
    across, _ = paper_values(abroad, "coco_stuff164k", protocol("coco_stuff164k", *further), IMAGES)
    assert {v.printed for v in same if v.metric == "hiou"} == {0.851}
    assert {v.printed for v in across if v.metric == "hiou"} == {0.929}
    other = protocol("coco_stuff164k", *further, "evaluation.sets.voc12.unseen=[cat]")
    assert paper_values(abroad, "coco_stuff164k", other, IMAGES)[1] == [
        "evaluation.sets.voc12.unseen is ['cat'] (paper its own list)"
    ]


def test_table_5_is_a_tie_and_table_4_is_not():
    assert paper_sign("table5", "mlp", "transformer_decoder", "hiou") == "tie"
    assert paper_sign("table5", "original", "transformer_decoder", "hiou") == "tie"
    assert paper_sign("table4", "mean", "attention", "hiou") == "lower"
    assert paper_sign("table4", "attention", "mean", "hiou") == "higher"
    assert paper_sign("table1", "nothing", "swin_b", "hiou") is None
    assert paper_row(None, "full") is None


def test_the_paper_s_numbers_fit_each_other_except_where_the_paper_errs():
    """hIoU must lie between the values that S and U allow before they were rounded to 0.1."""
    wrong = set()
    for name, table in paper().tables.items():
        assert table.reference is None or paper_row(name, table.reference) is not None
        for row in table.rows:
            assert row.miou_seen is not None
            assert row.miou_unseen is not None
            ends = [
                2 * s * u / (s + u)
                for s in (row.miou_seen - 0.0005, row.miou_seen + 0.0005)
                for u in (row.miou_unseen - 0.0005, row.miou_unseen + 0.0005)
            ]
            if not min(ends) - 0.0005 <= (row.hiou or 0) <= max(ends) + 0.0005:
                wrong.add((name, row.variant, row.dataset))
    assert wrong == {
        ("table1", "cagnet", "coco_stuff164k"),
        ("table1", "cagnet", "pascal_context"),
        ("table1", "zsseg", "voc12"),
        ("table1", "segnext", "pascal_context"),
        ("table2", "swin_b", "pascal_context"),
    }


def test_every_row_of_the_ablation_tables_is_there_once():
    rows = {(name, row.variant) for name, table in paper().tables.items() if table.dataset for row in table.rows}
    assert rows == {("table3", variant) for variant in ("full", "no_bce", "no_ce", "no_cls_token", "no_generate")} | {
        ("table4", variant) for variant in ("attention", "max", "mean")
    } | {("table5", variant) for variant in ("transformer_decoder", "mlp", "original")}
    full = [
        paper_row(t, v) for t, v in (("table3", "full"), ("table4", "attention"), ("table5", "transformer_decoder"))
    ]
    assert len({tuple(getattr(row, metric) for metric in METRICS) for row in full}) == 1
