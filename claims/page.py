"""docs/results.md, made from claims/results.json, so that no figure or conclusion in it is written by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from cliptea.report.conclusions import t_interval
from cliptea.run import TRANSDUCTIVE, is_transductive

__all__ = ["FULL", "Table", "render"]

FULL = "beyond/full"
CHOSEN = "beyond/region_local"  # had the highest hIoU of the inductive variants in world 1 (one seed, 350 iterations)
SCORES = {"pAcc": "pAcc", "miou_seen": "mIoU seen", "miou_unseen": "mIoU unseen", "hiou": "hIoU"}
INTRODUCTION = """<!-- Made from claims/results.json by `make claims`. Edit claims/page.py instead. -->

# Results

    make claims                                        # all of this page; hours on two cores, and it can be resumed
    python -m claims --worlds 0 --seeds 1 --output tuning.json --page tuning.md    # one of the worlds for tuning

The demo renders worlds of small scenes, and trains a small CLIP from captions for each of them. The worlds 4 to 7 are
only used for this page; settings were chosen on the worlds 0 to 3. Every variant is trained with {seeds} seeds in each
of {worlds} worlds, with the settings of `components/cliptea/presets/demo.yaml`{overrides}. Differences are
taken between students of the same world and seed. Two intervals follow each difference in brackets, both two-sided
95 % intervals of Student's t distribution, not corrected for the number of comparisons. The first is over these {pairs}
differences. Students of one world share scenes and CLIP, so it is about these worlds. The second is over the {worlds}
means of the worlds, so it is about other worlds as well.

Made at commit {commit}, with {cores} cores of {processor}. Students whose fingerprint had not changed since an
earlier commit were not trained again: the fingerprint is made of the settings, the data and the version of the code
that counts for them.
"""
CLAIMS_NOTE = """
The best variant in these worlds has the highest mean of several, so its difference is probably a little too large.
The next table has all variants.
"""
SCORES_NOTE = """Scores are in percent, as mean ± standard deviation over worlds and seeds. The last columns have the
mean hIoU of each world.

"""
TRANSDUCTIVE_NOTE = """Here, training knows the names of the unseen classes, but no masks of them. The paper's method
does not know these names, so the difference to it shows what they are worth.

"""
REGIONS_NOTE = """ARI is the adjusted Rand index between the regions and the true classes, over the tokens of unseen
classes of training views that show two or more of them. Naming is the fraction of regions, most of whose tokens belong
to one unseen class, for which its name is the nearest of all names to CLIP's embedding of the region, moved to where
texts lie as `generator: region` does it. Training sees none of these labels.

"""
NAMES_NOTE = """This table shows which regions of training views the transductive students give the name of an unseen
class. Regions are sorted by what most of their tokens really show. *Right names* is the share of correct names among
those of regions of unseen classes. Regions of stuff without a class should get no name. The rule is that of
[the method](method.md#beyond-the-paper); the other rows leave out its conditions, for the same students.

"""


class Difference(NamedTuple):
    """A variant minus the paper's method: the mean, and an interval for each of two ways to count."""

    mean: float
    low: float  # over all pairs of students
    high: float
    low_worlds: float  # over the means of the worlds
    high_worlds: float

    def __str__(self) -> str:
        pairs = f"{100 * self.low:+.1f} to {100 * self.high:+.1f}"
        return f"{100 * self.mean:+.1f} ({pairs}; {100 * self.low_worlds:+.1f} to {100 * self.high_worlds:+.1f})"

    @property
    def is_higher(self) -> bool:
        """Whether both intervals are above 0."""
        return min(self.low, self.low_worlds) > 0

    @property
    def is_lower(self) -> bool:
        return max(self.high, self.high_worlds) < 0


class Table:
    """All scores, by variant and score, and there by world and seed."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.worlds = list(results["worlds"])
        self.scores: dict[str, dict[str, dict[tuple[str, int], float]]] = {}
        for world, found in results["worlds"].items():
            for row in found["rows"]:
                scores = self.scores.setdefault(f"{row['group']}/{row['variant']}", {})
                for score in SCORES:
                    if row[score] is None:
                        raise ValueError(f"{row['group']}/{row['variant']} has no {score} in world {world}")
                    scores.setdefault(score, {})[world, row["seed"]] = row[score]
        full = self.scores[FULL]
        # The same students are also in other groups, as what these are compared with.
        self.scores = {name: scores for name, scores in self.scores.items() if name == FULL or scores != full}

    def hiou(self, variant: str) -> float:
        return fmean(self.scores[variant]["hiou"].values())

    def difference(self, variant: str) -> Difference:
        """The hIoU of a variant minus that of the paper's method, over the worlds and seeds of both."""
        ours, full = self.scores[variant]["hiou"], self.scores[FULL]["hiou"]
        pairs = {key: ours[key] - full[key] for key in ours if key in full}
        by_world = [fmean(value for (world, _), value in pairs.items() if world == one) for one in self.worlds]
        return Difference(fmean(pairs.values()), *_interval(list(pairs.values())), *_interval(by_world))


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % Student interval of the mean; everything if there is one value."""
    return t_interval(values)[1:] if len(values) > 1 else (-1.0, 1.0)


def render(results: dict[str, Any]) -> str:
    """The page, in Markdown, of what `python -m claims` wrote."""
    table, machine = Table(results), results["machine"]
    introduction = INTRODUCTION.format(
        seeds=results["seeds"],
        worlds=len(table.worlds),
        pairs=len(table.scores[FULL]["hiou"]),
        commit=results["commit"],
        overrides="".join(f", `{one}`" for one in results["overrides"]),
        cores=machine["cores"],
        processor=machine["processor"],
    )
    inductive = [name for name in table.scores if not _is_transductive(name)]
    transductive = [name for name in table.scores if _is_transductive(name)]
    parts = [introduction, "\n## Claims\n\n", _claims(table), "\n## Scores\n\n", SCORES_NOTE, _scores(table, inductive)]
    if transductive:
        parts += ["\n## Scores in the transductive setting\n\n", TRANSDUCTIVE_NOTE, _scores(table, transductive)]
    parts += ["\n## Regions\n\n", _regions(results, table)]
    if transductive:
        parts += ["\n## Names from self-training\n\n", _names(results)]
    parts += ["\n## Cost of the teacher\n\n", _cost(results)]
    return "".join(parts)


def _claims(table: Table) -> str:
    rows = []

    def claim(text: str, variant: str, holds: bool) -> None:
        found = f"{100 * table.hiou(variant):.1f}, {table.difference(variant)}"
        rows.append((text, f"`{variant}`: {found}", "yes" if holds else "**no**"))

    for variant in table.scores:
        if variant.startswith("table3/no_"):
            text = f"the ablation `{variant}` is not shown to be better than the paper's method"
            claim(text, variant, table.difference(variant).low <= 0)
    known = table.scores.keys()
    for variant, text, most in (
        ("table3/no_cls_token", "without the Global Learning Module, hIoU is at least 25 points lower", -0.25),
        ("baselines/seen_only", "with cross entropy on seen classes alone, hIoU is at least 35 points lower", -0.35),
    ):
        if variant in known:
            claim(text, variant, table.difference(variant).mean <= most)
    if "baselines/no_pseudo" in known:
        text = "without the Pixel Learning Module, hIoU is lower, and both intervals exclude 0"
        claim(text, "baselines/no_pseudo", table.difference("baselines/no_pseudo").is_lower)
    inductive = [name for name in known if name.startswith("beyond/") and name != FULL]
    transductive = [name for name in known if name.startswith(f"beyond{TRANSDUCTIVE}/")]
    for variant, text, least in (
        (
            CHOSEN if CHOSEN in known else "",
            f"`{CHOSEN}`, which was chosen on world 1, is at least 5 points higher",
            0.05,
        ),
        (_best(table, inductive), "the best inductive variant in these worlds is at least 5 points higher", 0.05),
        (_best(table, transductive), "the best transductive variant is at least 8 points higher", 0.08),
    ):
        if variant:
            difference = table.difference(variant)
            claim(f"{text}, and both intervals exclude 0", variant, difference.mean >= least and difference.is_higher)
    header = ("claim", "hIoU, and its difference to the paper's method", "holds")
    return _markdown(header, rows) + CLAIMS_NOTE


def _best(table: Table, variants: Sequence[str]) -> str:
    return max(variants, key=table.hiou, default="")


def _is_transductive(variant: str) -> bool:
    return is_transductive(variant.partition("/")[0])


def _scores(table: Table, variants: Sequence[str]) -> str:
    rows = []
    for variant in variants:
        scores = table.scores[variant]
        means = [_spread(scores[score].values()) for score in SCORES]
        by_world = [
            f"{100 * fmean(value for (world, _), value in scores['hiou'].items() if world == one):.1f}"
            for one in table.worlds
        ]
        difference = "" if variant == FULL else str(table.difference(variant))
        rows.append((f"`{variant}`", *means, difference, *by_world))
    header = ("variant", *SCORES.values(), "hIoU - full", *(f"world {world}" for world in table.worlds))
    return _markdown(header, rows)


def _regions(results: dict[str, Any], table: Table) -> str:
    found: dict[str, dict[str, list[float]]] = {}
    for world in results["worlds"].values():
        for variant, figures in world["regions"].items():
            for name, value in figures.items():
                if value is not None and variant in table.scores:
                    found.setdefault(variant, {}).setdefault(name, []).append(value)
    alike: dict[tuple[str, ...], list[str]] = {}
    for variant, figures in found.items():
        row = tuple(f"{fmean(figures[name]):.2f}" if name in figures else "" for name in ("ari", "naming"))
        alike.setdefault(row, []).append(f"`{variant}`")
    rows = [(", ".join(variants), *row) for row, variants in alike.items()]
    return REGIONS_NOTE + _markdown(("variants", "ARI", "naming"), rows)


def _names(results: dict[str, Any]) -> str:
    worlds = [world["names"] for world in results["worlds"].values()]
    columns = {
        "named": "unseen classes",
        "right": "right names",
        "stuff": "stuff",
        "seen": "seen classes (at their edges)",
    }
    rows = [
        (rule, *(f"{100 * fmean(world[rule][column] for world in worlds):.1f}" for column in columns))
        for rule in worlds[0]
    ]
    return NAMES_NOTE + _markdown(("percent", *columns.values()), rows)


def _cost(results: dict[str, Any]) -> str:
    costs = [world["teacher"] for world in results["worlds"].values()]
    means = {name: fmean(cost[name] for cost in costs) for name in costs[0]}
    regions = means.pop("regions of a view")
    note = f"Milliseconds of the demo's CLIP for a view with {regions:.1f} regions, mean over the worlds.\n\n"
    return note + _markdown(("what", "ms"), [(name, f"{value:.2f}") for name, value in means.items()])


def _spread(values: Iterable[float]) -> str:
    known = list(values)
    return f"{100 * fmean(known):.1f}" + (f" ± {100 * stdev(known):.1f}" if len(known) > 1 else "")


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
