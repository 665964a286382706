"""The HTML report: complete, true to the rows, self-contained and safe against hostile names."""

import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
import scipy.stats
from example_report import CLASSES, INFERENCE, SETTINGS, UNSEEN, VARIANTS, make
from markupsafe import escape

from cliptea.data.catalogue import Catalogue
from cliptea.evaluation.results import ResultRow
from cliptea.report.bars import class_bars
from cliptea.report.context import ReportContext
from cliptea.report.page import breakable, build_report, percent, signed
from cliptea.report.summaries import Spread, summarise
from cliptea.report.version import COMMANDS, LOSER, PENDING, SHIP, with_place, with_version
from cliptea.sweeps import Trial
from cliptea.teacher.outputs import ClipTime

SECTIONS = [
    "results",
    "speed",
    "conclusions",
    "classes",
    "gamma",
    "predictions",
    "attention",
    "regions",
    "losses",
    "facts",
]


class Page(HTMLParser):
    """Tags, the text of each section, and the rows of each table."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: dict[str, str] = Counter()
        self.rows: dict[str, list[list[str]]] = {}
        self.open: list[str] = []
        self.section = "header"
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        found = {key: value or "" for key, value in attrs}
        self.tags.append((tag, found))
        if tag == "section":
            self.section = found["id"]
        if tag == "tr":
            self.rows.setdefault(self.section, []).append([])
        if tag in ("td", "th"):
            self.rows[self.section][-1].append("")
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.open.pop()

    def handle_data(self, data):
        self.text[self.section] = (self.text[self.section] or "") + data
        if self.open:
            self.rows[self.section][-1][-1] += data.strip("\n")

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def context() -> ReportContext:
    return make()


@pytest.fixture(scope="module")
def html(context) -> str:
    return build_report(context)


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_every_section_is_there_and_linked(page):
    assert [a["id"] for a in page.all("section")] == SECTIONS
    assert [a["href"] for a in page.all("a")] == [*(f"#{name}" for name in SECTIONS), "#conclusions"]


def test_nothing_is_loaded_from_outside(html, page):
    for tag, attrs in page.tags:
        for key in ("src", "href", "srcset", "action", "poster", "data", "background"):
            value = attrs.get(key, "")
            assert not value or value.startswith(("data:", "#")), (tag, key, value[:80])
    assert not {"link", "iframe", "object", "embed", "base"} & {t for t, a in page.tags if a.get("rel") != "icon"}
    assert not re.search(r"@import|url\(|https?://|fetch\(|XMLHttpRequest", html)
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe-inline" not in policy.split("script-src")[1]


def result_rows(page: Page) -> list[list[str]]:
    return [row for row in page.rows["results"] if row[0] != "Variant"]


def test_the_page_s_values_are_the_rows(context, page):
    shown = result_rows(page)
    expected = summarise(context.rows)
    assert [row[0] for row in shown] == [s.variant for s in expected]
    for row, summary in zip(shown, expected, strict=True):
        for column, metric in ((1, "hiou"), (3, "miou_unseen"), (4, "miou_seen"), (5, "pAcc")):
            values = np.array([getattr(r, metric) for r in context.rows if same(r, summary)])
            assert row[column] == f"{100 * values.mean():.1f} ± {100 * values.std(ddof=1):.1f}"
        assert row[6] == ", ".join(f"{gamma:g}" for gamma in summary.gamma)
        assert row[7] == context.facts.abouts[summary.label]
    assert shown[6][7] == "Without the Global Learning Module"


def test_each_trained_model_has_its_speed(context, page):
    rows = page.rows["speed"][1:]
    assert len(rows) == len({model for *_, model in VARIANTS})
    for row, (group, name, backbone, *_) in zip(rows[:3], VARIANTS[:3], strict=True):
        values = [r.hiou for r in context.rows if (r.group, r.variant) == (group, name)]
        assert row[0].startswith(name)
        assert row[1:] == [f"{100 * np.mean(values):.1f}", "240", "8.5", "–", "9.1", "3.71", "200", backbone]
    assert "measured on CPU (threads: 2, float32, 512x512)." in " ".join(page.text["speed"].split())


def test_a_student_that_was_not_measured_has_dashes():
    rows = [r.model_copy(update={"inference": None}) for r in make().rows]
    page = Page(build_report(replace(make(), rows=rows)))
    shown = page.rows["speed"][1:]
    assert [row[2:8] for row in shown] == [[*["–"] * 5, "200"]] * len(shown)
    assert "measured on" not in page.text["speed"]
    assert "Images per second" not in page.text["header"]


SPEEDS = {"segformer_b0": 120.0, "convnext_upernet": 75.0, "demo_fpn": 240.0}


def at_speed(row: ResultRow, device: str = "CPU") -> ResultRow:
    """The row with the speed of its backbone and a little of its own."""
    measured = {"images_per_second": SPEEDS[row.backbone] + row.seed, "device": device}
    return row.model_copy(update={"inference": INFERENCE.model_copy(update=measured)})


def test_accuracy_is_plotted_over_speed_across_backbones(context):
    """One dot for each trained model of the run's own method, at its mean speed and mean hIoU."""
    rows = [at_speed(row) for row in context.rows]
    chart = re.search(r'<svg class="chart speed".*?</svg>', build_report(replace(context, rows=rows)))
    tip = r"<title>(\w+): hIoU ([\d.]+) %, (\d+)"
    dots = re.findall(rf'<circle class="(\w+)" cx="([\d.]+)" cy="([\d.]+)" r="5">{tip}', chart[0])
    assert {name for _, _, _, name, _, _ in dots} == {*SPEEDS}
    for _, x, y, name, hiou, speed in dots:
        mine = [row for row in rows if (row.group, row.variant) == ("backbones", name)]
        mean, fast = np.mean([r.hiou for r in mine]), np.mean([r.inference.images_per_second for r in mine])
        assert (float(hiou), float(speed)) == (pytest.approx(100 * mean, abs=0.06), pytest.approx(fast, abs=0.6))
        assert float(x) == pytest.approx(40 + fast / 400 * 500, abs=0.06)  # from 0 to 400 images per second
        assert float(y) == pytest.approx(226 - mean * 216, abs=0.06)  # from 0 to 100 %
    assert [name for kind, _, _, name, _, _ in dots if kind == "best"] == ["demo_fpn"]


def test_speeds_of_one_backbone_or_of_several_devices_are_not_plotted(context):
    one = [at_speed(r) for r in context.rows if r.backbone == "demo_fpn"]
    page = build_report(replace(context, rows=one))
    assert "chart speed" not in page
    assert "A run with several backbones also has a plot" in page
    two = [at_speed(r, "CPU" if r.backbone == "demo_fpn" else "GPU") for r in context.rows]
    page = build_report(replace(context, rows=two))
    assert "chart speed" not in page
    assert "Speeds of different devices cannot be compared." in page


def same(row: ResultRow, summary) -> bool:
    return (row.group, row.variant, row.dataset) == (summary.group, summary.variant, summary.dataset)


def test_the_best_of_each_column_is_marked(page):
    best = [a["data-v"] for a in page.all("td") if "best" in a.get("class", "")]
    assert len(best) >= 4 * 4  # four groups, four scores; equal means are marked together


def test_classes_stand_apart_as_unseen_and_seen_with_their_means(context, page):
    rows = page.rows["classes"]
    names = [row[0] for row in rows[1:]]
    assert names == ["Unseen", *UNSEEN, "Seen", *[c for c in CLASSES if c not in UNSEEN]]
    plum = next(row for row in rows if row[0] == "plum")
    first = [r.per_class["plum"] for r in context.rows if (r.group, r.variant) == ("backbones", "segformer_b0")]
    assert plum[1] == f"{100 * np.mean(first):.0f}"
    assert set(next(row for row in rows if row[0] == "melon")[1:]) == {"–"}


def test_every_model_has_a_bar_for_each_class_with_its_spread(context, html):
    charts = re.findall(r'<svg class="chart bars".*?</svg>', html)
    assert len(charts) == len({model for *_, model in VARIANTS})
    for chart in charts:
        kinds = re.findall(r'<rect class="(\w+)"', chart)
        assert kinds == ["unseen"] * 3 + ["seen"] * 4  # melon has no pixels
        assert chart.count("whisker") == 7
    shown = re.search(
        r'<rect class="unseen" x="84" y="[\d.]+" width="([\d.]+)" height="9"><title>plum: ([\d.]+) %', charts[0]
    )
    plum = 100 * np.mean([r.per_class["plum"] for r in context.rows if r.variant == "segformer_b0"])
    assert (float(shown[1]), float(shown[2])) == (pytest.approx(1.9 * plum, abs=0.06), pytest.approx(plum, abs=0.06))


def test_equal_variants_of_several_groups_are_shown_once(page):
    models = {model for *_, model in VARIANTS}
    assert len(page.rows["classes"][0]) == 1 + len(models)
    assert len(page.rows["predictions"]) == 2 + len(models)
    assert "= table3/full, baselines/full, table4/attention" in page.text["predictions"]
    assert len([a for a in page.all("svg") if a.get("class") == "chart"]) == 2 * len(models)


def test_every_picture_says_what_it_is(page):
    alts = [a["alt"] for a in page.all("img") if a["alt"]]
    assert len(alts) == 3 * ((2 + 11) + (1 + 3) + 3) + 11
    assert "Confusion matrix of no_cls_token" in alts
    assert "no_cls_token, val/2" in alts


def test_loss_charts_have_one_axis(context):
    first = {"table3/full": 1000.0, "table3/no_ce": 0.01}
    curves = {label: {"ce": [(1, value), (2, 5.0)]} for label, value in first.items()}
    page = Page(build_report(replace(context, losses=curves)))
    ticks = re.findall(r"1000|100|10|1|0.1|0.01", "".join(page.text["losses"].split("logarithmic")[1].split()))
    assert ticks.count("1000") == ticks.count("0.01") == 2


def test_conclusions_are_computed(page):
    text = page.text["conclusions"]
    assert "hIoU is lower than full: no_pseudo, seen_only." in text
    assert "lower than full: no_ce, no_cls_token" in text
    rows = page.rows["conclusions"]
    token = next(row for row in rows if row[0] == "no_cls_token")
    assert token[2] == "lower"
    assert token[-2:] == ["lower", "same sign"]
    assert "only the signs of differences are compared" in text
    assert "45.4" not in text  # the paper's value


def test_one_seed_concludes_nothing():
    page = Page(build_report(make(seeds=(0,))))
    assert "One seed: no conclusion." in page.text["conclusions"]
    assert "conclusions" not in page.rows
    assert "±" not in page.text["results"]


def test_a_stand_in_teacher_concludes_nothing_and_says_so_first():
    page = Page(build_report(make(stand_in=True, dataset="pascal_context")))
    assert "the numbers on this page are meaningless" in page.text["header"]
    assert "No conclusions: the teacher is a stand-in." in page.text["conclusions"]
    assert "conclusions" not in page.rows
    assert not [a for a in page.all("td") if "best" in a.get("class", "")]


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_on_the_paper_s_own_set_values_stand_side_by_side(seeds):
    page = Page(build_report(make(seeds=seeds, dataset="pascal_context")))
    row = next(row for row in page.rows["conclusions"] if row[0] == "no_ce" and len(row) == 9)
    assert row[2].startswith("38.4 (+")
    assert "only the signs" not in page.text["conclusions"]
    assert "uses a different protocol" not in page.text["conclusions"]


def test_another_protocol_is_named_in_place_of_the_paper_s_values():
    settings = SETTINGS | {"train": SETTINGS["train"] | {"batch_size": 8}}
    page = Page(build_report(make(dataset="pascal_context", settings=settings)))
    assert "train.batch_size is 8 (paper 16)" in page.text["conclusions"]
    assert not [row for row in page.rows["conclusions"] if len(row) == 9 and "(" in row[2]]


def test_facts_warnings_and_settings_are_there(page):
    text = page.text["facts"]
    for part in ("mlflow ui --backend-store-uri", "0af7651916cd", "b1946ac92492", "torch 2.15.0", "train.lr"):
        assert part in text
    assert "3 images have no labelled pixel." in page.text["header"]
    assert "fixed in advance at 0 " in page.text["gamma"]
    assert "The settings of the demo were chosen on its worlds 0 to 3" in page.text["gamma"]
    photos = Page(build_report(make(dataset="photos")))
    assert "was not tuned on these" in photos.text["gamma"]


HOSTILE = [
    '<script>alert("x")</script>',
    '"><img src=x onerror=alert(1)>',
    "{{ 7*7 }}",
    "a' onclick='b",
    "</style>",
]


def test_hostile_names_stay_text():
    variants = [(HOSTILE[1], name, HOSTILE[0], 0.5, f"m{i}") for i, name in enumerate(HOSTILE)]
    context = make(
        variants=variants,
        classes=[*HOSTILE, "cow"],
        unseen=HOSTILE[:2],
        title=HOSTILE[0],
        dataset=HOSTILE[1],
        candidates=[f"{HOSTILE[1]}/{HOSTILE[0]}"],
    )
    context = replace(
        context,
        warnings=HOSTILE,
        rows=[r.model_copy(update={"per_class": dict.fromkeys(HOSTILE, 0.5)}) for r in context.rows],
        losses={k: {HOSTILE[0]: v["ce"]} for k, v in context.losses.items()},
    )
    html = build_report(context)
    page, plain = Page(html), Page(build_report(make()))
    assert len(page.all("script")) == len(plain.all("script")) == 1
    assert not [a for _, a in page.tags if any(key.startswith("on") for key in a)]
    assert {a["src"][:5] for a in page.all("img") if "src" in a} == {"data:"}
    assert {t for t, _ in page.tags} == {t for t, _ in plain.tags} - {"wbr"}
    for name in HOSTILE:
        assert name in page.text["results"]
        assert name in page.text["classes"]
        assert name in page.text["header"]


@pytest.mark.parametrize(("chosen", "said"), [(4, True), (["train/0"], False)])
def test_how_images_with_regions_are_chosen_is_said_unless_the_settings_name_them(chosen, said):
    context = make()
    evaluation = SETTINGS["evaluation"] | {"figures": chosen}
    facts = context.facts.model_copy(update={"settings": SETTINGS | {"evaluation": evaluation}})
    text = Page(build_report(replace(context, facts=facts))).text["regions"]
    assert ("at least two regions that together cover a fifth of the view" in text) is said


def test_a_run_without_pictures_or_rows_still_has_every_section():
    empty = ReportContext(facts=make().facts, rows=[])
    page = Page(build_report(empty))
    assert [a["id"] for a in page.all("section")] == SECTIONS
    for section, said in (
        ("results", "No variant was evaluated"),
        ("gamma", "Other values of gamma were not evaluated"),
        ("predictions", "No predictions"),
        ("attention", "No attention maps"),
        ("regions", "No region maps"),
        ("losses", "No loss curves"),
    ):
        assert said in page.text[section]


def test_a_sweep_has_its_own_section_with_the_best_trial_on_held_out_images_first():
    variants = [("mine", "lr-01", "demo_fpn", 0.9, "a"), ("mine", "lr-02", "demo_fpn", 0.4, "b")]
    context = make(variants=variants, candidates=["mine/lr-02"], clip_views=200)
    tried = {"lr-01": ("<b>1</b>", 0.5), "lr-02": (0.002, 0.625)}
    rows = [
        row.model_copy(
            update={
                "trial": Trial(sweep="lr", settings={"train.lr": tried[row.variant][0]}),
                "heldout_miou_seen": tried[row.variant][1],
            }
        )
        for row in context.rows
    ]
    page = Page(build_report(replace(context, rows=rows)))
    assert [a["id"] for a in page.all("section")] == ["results", "sweeps", *SECTIONS[1:]]
    head, best, other = page.rows["sweeps"]
    assert head[:3] == ["Trial", "train.lr", "held-out seen mIoU"]
    assert best[:3] == ["lr-02", "0.002", "62.5 ± 0.0"]
    assert other[:3] == ["lr-01", "<b>1</b>", "50.0 ± 0.0"]
    assert "CLIP saw 200 views once for all 6 students of this sweep" in page.text["sweeps"]
    assert "CLIP would have seen 1000 more" in page.text["sweeps"]
    assert "mine/lr-02" in page.text["header"]
    assert "best trial of its sweep on held-out training images" in page.text["header"]
    assert "against lr-02" in page.text["conclusions"]
    assert "The reference is the best trial of its sweep on held-out training images." in page.text["conclusions"]
    assert "highest mean hIoU" not in page.text["conclusions"]


@pytest.mark.parametrize(
    ("views", "seconds", "devices", "said"),
    [
        (80, 0.3, ["CPU core"], "in 0.30 seconds of one CPU core.@1.5 seconds more"),
        (80, 24.0, ["CPU core"], "in 24 seconds of one CPU core.@2.0 minutes more"),
        (20, 540.0, ["A100"], "in 36 minutes of one A100 (measured on 20 of them).@3.0 hours more"),
        (80, 9000.0, ["A100"], "in 2.5 hours of one A100.@12 hours more"),
    ],
)
def test_a_sweep_says_what_clip_would_have_taken_if_its_time_was_measured(views, seconds, devices, said):
    variants = [("mine", name, "demo_fpn", 0.5, "") for name in ("lr-01", "lr-02")]
    time = ClipTime(views=views, seconds=seconds, devices=devices)
    context = make(variants=variants, candidates=["mine/lr-01"], clip_views=80, clip_time=time)
    tried = {"trial": Trial(sweep="lr", settings={"train.lr": 1}), "heldout_miou_seen": 0.5}
    rows = [row.model_copy(update=tried) for row in context.rows]
    text = " ".join(Page(build_report(replace(context, rows=rows))).text["sweeps"].split())
    once, more = said.split("@")
    assert f"CLIP saw 80 views once for all 6 students of this sweep, {once}" in text
    assert f"If each student had made its own tokens, CLIP would have taken {more}." in text


def test_scores_without_value_are_dashes():
    rows = [r.model_copy(update={"miou_unseen": None, "hiou": None}) for r in make().rows]
    page = Page(build_report(replace(make(), rows=rows, sweep=[])))
    shown = result_rows(page)
    assert {row[1] for row in shown} == {"–"}
    assert {row[3] for row in shown} == {"–"}


def test_a_second_evaluation_set_has_its_own_tables_and_split():
    other = [r.model_copy(update={"dataset": "photos", "per_class": {"car": 0.25, "tree": 0.75}}) for r in make().rows]
    other_classes = {"photos": Catalogue(classes=["car", "tree"], unseen=["tree"])}
    context = make(other_catalogues=other_classes)
    page = Page(build_report(replace(context, rows=[*context.rows, *other])))
    assert page.text["results"].count("on photos") == 4
    names = [row[0] for row in page.rows["classes"] if row[0] != "Class"]
    assert names[-4:] == ["Unseen", "tree", "Seen", "car"]


def test_the_report_is_the_same_every_time_and_small(context, html):
    assert build_report(context) == html
    assert len(html) < 1_500_000


def test_numbers_are_formatted_once_and_for_all():
    assert [percent(0.4567), percent(None), percent(1.0)] == ["45.7", "–", "100.0"]
    assert [signed(0.0004), signed(-0.0004), signed(-0.123), signed(0.05)] == ["0.0", "0.0", "−12.3", "+5.0"]
    assert breakable("<a>_b") == "&lt;a&gt;_<wbr>b"


def test_a_report_needs_no_torch_mlflow_or_kfp():
    code = "import sys, cliptea.report.page; print({'torch', 'mlflow', 'kfp'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_page_opens_with_the_model_to_ship_and_never_with_an_ablation():
    rows = [(*row[:3], 0.95 if row[1] == "no_bce" else row[3], row[4]) for row in VARIANTS]
    context = make(variants=rows)
    header = " ".join(Page(build_report(context)).text["header"].split())
    assert "Ship this: demo_fpn backbones" in header
    mine = [r for r in context.rows if (r.group, r.variant) == ("backbones", "demo_fpn")]
    for metric in ("hiou", "miou_unseen", "miou_seen"):
        values = np.array([getattr(r, metric) for r in mine])
        assert f"{100 * values.mean():.1f} ± {100 * values.std(ddof=1):.1f}" in header
    best = max(mine, key=lambda r: r.hiou)
    assert f"seed {best.seed}, which has the highest hIoU: {100 * best.hiou:.1f} %, unseen" in header
    for part in (
        "3.71",
        "240",
        "CPU, 2 threads, 512x512, 8.5 ms",
        "The full method with the demo's small feature pyramid network",
    ):
        assert part in header
    assert "Ship this" not in Page(build_report(make(candidates=[]))).text["header"]


def test_the_last_step_names_the_version(html):
    told = 'photos" version 3 is the champion (<first>).'
    command = "cliptea predict PHOTOS --model models:/cliptea-demo/3 --workdir '/my runs/<1>'"
    page = with_version(html, SHIP, told, command, "")
    assert told in Page(page).text["header"]
    assert "<first>" not in page
    assert PENDING in Page(html).text["header"]
    assert PENDING not in page
    assert "Ship this" in page
    assert commands(page) == [command]
    assert commands(html) == []
    assert page.replace(str(escape(told)), PENDING).startswith(html[: html.index(COMMANDS)])  # nothing else has changed
    assert page.endswith(html[html.index(COMMANDS) + len(COMMANDS) :])


def test_the_last_step_names_the_place_of_mlflow(html):
    placeless, command = "mlflow ui --backend-store-uri sqlite:///x.db", "cliptea ui --workdir '/my runs/<1>'"
    page = with_place(html, placeless, command)
    assert command in "".join(Page(page).text.values())
    assert page.replace(str(escape(command)), placeless) == html


def commands(page):
    """The commands in the header."""
    found = re.findall(r'<p class="command"><code>(.*?)</code></p>', page)
    assert all(unescape(command) in Page(page).text["header"] for command in found)
    return [unescape(command) for command in found]


def test_a_version_that_is_not_the_champion_is_not_what_to_ship(html):
    page = with_version(html, LOSER, "told", "predict the champion", "predict this run's")
    header = " ".join(Page(page).text["header"].split())
    assert "Ship this" not in header
    assert "Best of this run, but not the champion: demo_fpn" in header
    assert commands(page) == ["predict the champion", "predict this run's"]
    assert "predict the champion This run's best, to compare: predict this run's" in header


def test_the_model_to_ship_comes_before_the_warnings():
    header = Page(build_report(replace(make(), warnings=["few images"]))).text["header"]
    assert header.index("Ship this") < header.index("few images")


def test_the_headline_says_what_each_part_of_the_method_is_worth():
    """The differences and their signs follow from the rows, by scipy's paired interval."""
    context = make()
    page = build_report(context)
    rows = [row for row in context.rows if row.group in ("table3", "baselines")]
    by_name = {(row.variant, row.seed): row.hiou for row in rows}
    abouts = {row.variant: context.facts.abouts[row.label] for row in rows if row.variant != "full"}
    assert len(abouts) == 6
    for variant, about in abouts.items():
        pairs = np.array([by_name[variant, seed] - by_name["full", seed] for seed in range(3)])
        low, high = scipy.stats.t.interval(0.95, 2, pairs.mean(), scipy.stats.sem(pairs))
        line = re.search(rf"<li>{re.escape(about)}:\s*(.*?)\s*</li>", page, re.DOTALL)[1]
        verdict = "lower" if high < 0 else "higher" if low > 0 else "no difference is shown"
        assert verdict in line
        assert signed(low) in line
    assert "one seed only, so no conclusion" in build_report(make(seeds=(0,)))


def test_names_of_classes_are_never_cut_off():
    parts = {"seen": [("a class with quite a long name " + "x" * 8, Spread(0.5, None)), ("sky", Spread(0.25, None))]}
    chart = class_bars(parts, "t")
    assert 'textLength="145" lengthAdjust="spacingAndGlyphs">a class with quite a long name xxxxxxxx<' in chart
    bars = [float(width) for width in re.findall(r'<rect class="seen" x="150" y="[\d.]+" width="([\d.]+)"', chart)]
    assert bars == pytest.approx([124 / 2, 124 / 4], abs=0.06)
