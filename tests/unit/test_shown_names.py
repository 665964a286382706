"""Names with control characters are shown with escapes, as in messages, in reports, figures, tables and commands."""

import io

import numpy as np
import pytest
import yaml
from example_report import CLASSES, UNSEEN, VARIANTS, make
from rich.console import Console
from typer.testing import CliRunner

from cliptea import settings
from cliptea.config import EvaluationConfig
from cliptea.data.colours import legend
from cliptea.evaluation.results import Scores
from cliptea.plan import make_plan
from cliptea.report.confusion_figure import confusion_figure
from cliptea.report.page import build_report
from cliptea.report.tables import NARROW
from cliptea.serving.score_file import Measurement
from cliptea_pipeline import doctor, evaluate_cli
from cliptea_pipeline.checks import OK, Finding
from cliptea_pipeline.cli import app
from cliptea_pipeline.display import cell, results_table
from cliptea_pipeline.placement import Placement
from cliptea_pipeline.planning import show_plan

ODD, SHOWN = "a\x1b[31m\u202eb[red]", r"a\x1b[31m\u202eb[red]"


def printed(*things):
    console = Console(file=io.StringIO(), width=300)
    console.print(*things)
    return console.file.getvalue()


def clean(text):
    return all(line.isprintable() for line in text.replace(NARROW, " ").split("\n"))


def test_the_report_shows_them():
    classes = [ODD if name == "cow" else name for name in CLASSES]
    unseen = [f"{ODD}2" if name == "zebra" else name for name in UNSEEN]
    classes[0] = f"{ODD}2"
    variants = [(group, ODD if name == "max" else name, *rest) for group, name, *rest in VARIANTS]
    page = build_report(make(variants=variants, classes=classes, unseen=unseen, title=ODD))
    assert clean(page)
    assert page.count(SHOWN) > 10


def test_figures_show_them():
    counts = np.ones((2, 2))
    assert confusion_figure(counts, [ODD, "sky"]) == confusion_figure(counts, [SHOWN, "sky"])
    assert legend([(ODD, 0)], 100).tobytes() == legend([(SHOWN, 0)], 100).tobytes()


def test_tables_show_them(capsys):
    assert printed(cell(ODD)) == f"{SHOWN}\n"
    row = {"variant": ODD, "group": "g", "backbone": ODD, "dataset": "d", "seed": 0}
    table = printed(results_table([row | dict.fromkeys(("pAcc", "miou_seen", "miou_unseen", "hiou"), 0.5)]))
    assert clean(table)
    assert f"g/{SHOWN}" in table
    scores = Scores(pAcc=0.5, miou_seen=0.5, miou_unseen=0.5, hiou=0.5)
    measured = Measurement.model_construct(
        scores=scores,
        per_class={ODD: 0.5},
        unseen=[ODD],
        images=3,
        dataset="d",
        evaluation=EvaluationConfig(gamma=0.0),
    )
    evaluate_cli._print(measured)
    told = capsys.readouterr().out
    assert clean(told)
    assert f"{SHOWN} (unseen)" in told


def test_plan_shows_them():
    config = settings.load("folder", [f"data.root={ODD}", f"teacher.weights=./{ODD}"])
    told = io.StringIO()
    show_plan(Console(file=told, width=200), config, make_plan(config, {}), 100)
    assert clean(told.getvalue())
    assert f"data.root={SHOWN}" in told.getvalue()


def test_doctor_shows_them(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda looks, seconds: [Finding("a check", OK, f"a secret named {ODD}")])
    assert doctor.code(doctor.doctor(Placement(), None, None)) == 0
    told = capsys.readouterr().out
    assert clean(told)
    assert f"a secret named {SHOWN}" in told


@pytest.mark.parametrize("root", [ODD, "zwölf Äpfel 猫"])
def test_config_shows_them_and_stays_yaml(root):
    told = CliRunner().invoke(app, ["config", "--set", f"data.root={root}"]).stdout
    assert clean(told)
    assert yaml.safe_load(told)["data"]["root"] == root
    assert (root in told) is root.isprintable()
