"""The report of a run as one self-contained HTML page that needs no network and suits phones, dark mode and paper."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from cliptea.evaluation.results import SCORE_NAMES
from cliptea.messages import number_of, printable, three_digits
from cliptea.nested import flatten
from cliptea.report import grids, tables, version
from cliptea.report.context import ReportContext
from cliptea.report.paper import paper
from cliptea.report.summaries import Spread, summarise
from cliptea.report.sweep_tables import sweep_tables

__all__ = ["build_report"]


def build_report(context: ReportContext) -> str:
    """The report as HTML.

    All names are escaped, control characters in them as in messages, and the page's content security policy forbids it
    to load or run anything else.

    Raises:
        DataError: two rows of one group, variant, evaluation set and seed.
    """
    summaries = summarise(context.rows)
    facts, groups = context.facts, tables.groups_of(summaries)
    names = tables.names_of(summaries)
    script = _text("report.js")
    page = _environment().get_template("report.html.j2")
    text = page.render(
        context=context,
        facts=facts,
        paper=paper(),
        short=SCORE_NAMES,
        headline=tables.headline(groups, facts),
        results=tables.result_tables(groups, facts),
        sweeps=sweep_tables(summaries, facts.dataset, facts.clip_views, facts.clip_time),
        speed=tables.speed_table(groups, facts),
        pending=version.PENDING,
        ship=version.SHIP,
        commands=version.COMMANDS,
        conclusions=tables.conclusion_tables(groups, facts),
        classes=tables.class_tables(groups, facts, context.confusions or names),
        datasets=list(dict.fromkeys(group.dataset for group in groups)),
        legend=grids.class_legend(context),
        predictions=grids.prediction_grid(context, names, summaries),
        attention=grids.attention_grid(context, names),
        regions=grids.region_grid(context),
        trained=len({first for first, _ in names.values()}),
        gammas=grids.gamma_charts(context, names, summaries),
        losses=grids.loss_charts(context, names),
        confusions=grids.confusions(context, names),
        settings=flatten(facts.settings),
        style=Markup(_text("report.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    ).lstrip()
    return "\n".join(map(_printable, text.split("\n")))


def _printable(line: str) -> str:
    return tables.NARROW.join(map(printable, line.split(tables.NARROW)))


def percent(value: float | None) -> str:
    """A fraction in percent with one decimal; an en dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f}"


def breakable(name: str) -> Markup:
    """A name that may be broken after its underscores."""
    return Markup("_<wbr>").join(escape(name).split("_"))


def signed(value: float) -> str:
    """A difference of fractions in percentage points, with its sign unless it rounds to zero."""
    points = round(100 * value, 1)
    return f"{points:+.1f}".replace("-", "\u2212") if points else "0.0"


def spread(value: Spread) -> Markup:
    """The mean in percent, followed by the standard deviation if there are several seeds."""
    if value.mean is None:
        return Markup("–")
    sd = "" if value.sd is None else Markup('<span class="sd"> ± {:.1f}</span>').format(100 * value.sd)
    return Markup("{:.1f}{}").format(100 * value.mean, sd)


def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_text),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"breakable": breakable, "percent": percent, "signed": signed, "spread": spread}
    environment.filters |= {"three_digits": three_digits, "number_of": number_of}
    return environment


def _text(name: str) -> str:
    return resources.files("cliptea.report").joinpath(name).read_text(encoding="utf-8")
