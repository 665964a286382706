"""The paper's Tables 1-5 as data (`paper.yaml`), read on first use."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from cliptea.config import Config, EvaluationSet
from cliptea.data.facts import facts
from cliptea.evaluation.results import METRICS, Metric
from cliptea.nested import flatten
from cliptea.parse import parse_yaml
from cliptea.report.summaries import Summary
from cliptea.settings import load
from cliptea.variant_groups import apply_delta, variant_group

__all__ = [
    "Paper", "PaperRow", "PaperTable", "Sign", "own_dataset", "paper", "paper_row", "paper_sign",
    "protocol_differences", "table_of",
]  # fmt: skip

Sign = Literal["lower", "higher", "tie"]
OPENAI = "OpenAI's CLIP"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PaperRow(_Strict):
    """A row as printed, but in fractions 0-1; None where the paper reports nothing."""

    variant: str
    dataset: str
    pAcc: float | None
    miou_seen: float | None
    miou_unseen: float | None
    hiou: float | None
    gamma: float | None = None  # where it differs from the table's


class PaperTable(_Strict):
    """A table with its rows, the setting of its measurements, and the row that the others are compared with."""

    caption: str
    setting: str
    iterations: dict[str, int]  # the paper's data set that is trained on -> iterations
    gamma: float | None = None  # at test time; None where the paper does not say
    rows: list[PaperRow]
    dataset: str | None = None
    reference: str | None = None
    notes: list[str] = []

    @model_validator(mode="before")
    @classmethod
    def _spread_out(cls, data: dict) -> dict:
        rows = []
        for row in data["rows"]:
            percent = {metric: row[metric] for metric in METRICS}
            fractions = {metric: None if value is None else value / 100 for metric, value in percent.items()}
            rows.append({"dataset": data.get("dataset"), **row, **fractions})
        return {**data, "rows": rows}


class Clip(_Strict):
    """The paper's CLIP: its pre-training tag in open_clip, and the sha256 of its file."""

    tag: str
    sha256: str


class Paper(_Strict):
    source: str
    tie_margin: float  # percentage points
    datasets: dict[str, list[str]]  # the paper's data set -> names it has in results
    presets: dict[str, str]  # the paper's data set -> our preset of its protocol
    free: list[str]  # settings and sections that may differ from it
    clip: Clip
    tables: dict[str, PaperTable]


@functools.cache
def paper() -> Paper:
    """The reference numbers, read once."""
    text = resources.files("cliptea.report").joinpath("paper.yaml").read_text(encoding="utf-8")
    return Paper.model_validate(parse_yaml(text, "paper.yaml"))


def own_dataset(name: str) -> str | None:
    """The paper's name of an evaluation set, or None where the paper did not use it."""
    return next((own for own, names in paper().datasets.items() if name in names), None)


def table_of(group: str, dataset: str, trained_on: str) -> str | None:
    """The table that a group reproduces: the one of its name, or for backbones Table 1, or Table 2 across data sets."""
    if group in ("backbones", "table1", "table2"):
        return "table1" if own_dataset(dataset) == own_dataset(trained_on) else "table2"
    return group if group in paper().tables else None


def paper_row(table: str | None, variant: str, dataset: str | None = None) -> PaperRow | None:
    """The row of a variant, or None where the paper has none.

    Args:
        table: "table1" to "table5"; anything else finds nothing.
        variant: cliptea's name of the row.
        dataset: name of the evaluation set, needed in Tables 1 and 2; None takes the table's only one.
    """
    chosen = paper().tables.get(table or "")
    if chosen is None:
        return None
    wanted = own_dataset(dataset) if dataset is not None else chosen.dataset
    return next((row for row in chosen.rows if row.variant == variant and row.dataset == wanted), None)


def protocol_differences(
    table: str,
    summary: Summary,
    trained_on: str,
    settings: Mapping[str, Any],
    clip_sha256: str,
    images: Mapping[str, Mapping[str, int]],
) -> list[str]:
    """All differences between the protocol of a row and that of the paper, in words; empty if they are comparable.

    Args:
        table: "table1" to "table5".
        summary: the row, which the table has.
        trained_on: name of the data set that the students were trained on.
        settings: the run's resolved config, nested.
        clip_sha256: of the file with CLIP's weights; "" if it is not known.
        images: data set -> part ("train" or "val") -> number of its images that were used.
    """
    own, row = own_dataset(trained_on), paper_row(table, summary.variant, summary.dataset)
    iterations = paper().tables[table].iterations.get(own or "")
    if own is None or row is None or iterations is None:
        return [f"trained on {trained_on}"]
    delta = variant_group(f"{table}/{summary.variant}")[summary.variant]
    ours = apply_delta(Config.model_validate(settings), delta)
    theirs = apply_delta(load(paper().presets[own]), delta)
    found, wanted = (_compared(config, table, summary.dataset) for config in (ours, theirs))
    found["train.iterations"], wanted["train.iterations"] = _listed(summary.iterations), str(iterations)
    found["teacher.weights"], wanted["teacher.weights"] = _clip(ours, clip_sha256), OPENAI
    gamma = row.gamma if row.gamma is not None else paper().tables[table].gamma
    if gamma is not None:
        key = f"the gamma of {summary.variant}"
        found[key], wanted[key] = _listed(summary.gamma), f"{gamma:g}"
    for part, name in (("train", trained_on), ("val", summary.dataset)):
        key, number = f"the number of {part} images of {name}", images[name][part]
        accepted = _numbers_of_images(name, part)
        found[key], wanted[key] = number, number if number in accepted else " or ".join(map(str, accepted))
    return [
        f"{key} is {_said(found.get(key))} ({_of_paper(wanted.get(key), key)})"
        for key in dict.fromkeys([*wanted, *found])
        if found.get(key) != wanted.get(key)
    ]


def _numbers_of_images(dataset: str, part: str) -> list[int]:
    """The numbers of images that published results of a data set are measured on."""
    known = facts(own_dataset(dataset) or "")
    return known.splits[known.train if part == "train" else part].images


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" if isinstance(number, float) else str(number) for number in numbers)


def _compared(config: Config, table: str, dataset: str) -> dict[str, Any]:
    """The settings of a config that must be those of the paper, by name."""
    free, backbone = paper().free, config.student.backbone
    flat = flatten(config.model_dump(mode="json"))
    kept = {key: value for key, value in flat.items() if not any(f"{key}.".startswith(f"{part}.") for part in free)}
    if kept["data.train_list"] == "trainaug":
        kept["data.train_list"] = None  # which means the same for VOC
    kept["data.dataset"] = own_dataset(config.data.dataset) or config.data.dataset  # code may have the same name
    kept["data.unseen"] = _unseen(config.data.unseen, config.data.name)
    kept["data.synonyms"] = config.data.synonyms or None
    kept["student.pretrained"] = config.student.initial_weights
    kept["train.lr_scale"] = config.train.lr_scale.get(backbone, 1.0)
    if table == "table2":
        further = config.evaluation.sets.get(dataset, EvaluationSet())
        before, own = f"evaluation.sets.{dataset}", own_dataset(dataset)
        kept[f"{before}.dataset"] = own_dataset(further.dataset or dataset) or further.dataset
        kept[f"{before}.unseen"] = _unseen(further.unseen, dataset)
        kept[f"{before}.gamma"] = further.gamma
        kept[f"{before}.text_features"] = further.text_features
        kept[f"{before}.synonyms"] = further.synonyms or None
        kept[f"{before}.templates"] = further.templates or config.teacher.templates
        if dataset not in config.evaluation.sets and own is not None:  # the protocol: the prompts of its own preset
            kept[f"{before}.templates"] = load(paper().presets[own]).teacher.templates
    return kept


def _unseen(given: list[str] | None, dataset: str) -> list[str] | None:
    """The unseen classes in the settings. None means the data set's own list, also if it is given in full."""
    own = own_dataset(dataset)
    return None if given is not None and own is not None and {*given} == {*facts(own).unseen} else given


def _clip(config: Config, sha256: str) -> str:
    """The CLIP of a run: the paper's, or its setting."""
    known = paper().clip
    return OPENAI if config.teacher.weights == known.tag or sha256 == known.sha256 else str(config.teacher.weights)


def _said(value: Any, key: str = "") -> Any:
    if value is None:
        return "its own list" if key.endswith((".unseen", ".train_list")) else "none"
    return value


def _of_paper(value: Any, key: str) -> str:
    """What the paper says about a setting, or what is assumed where it says nothing."""
    if key.startswith("evaluation.sets.") and key.endswith(".gamma"):
        return f"not stated in the paper; {value:g} is assumed"
    return f"paper {_said(value, key)}"


def paper_sign(table: str, variant: str, reference: str, metric: Metric) -> Sign | None:
    """Whether the variant is lower or higher than the reference row in the paper, or tied within the tie margin."""
    row, other = paper_row(table, variant), paper_row(table, reference)
    if row is None or other is None:
        return None
    value, base = getattr(row, metric), getattr(other, metric)
    if value is None or base is None:
        return None
    points = round(100 * (value - base), 1)
    if abs(points) <= paper().tie_margin:
        return "tie"
    return "higher" if points > 0 else "lower"
