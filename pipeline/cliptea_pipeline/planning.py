"""`cliptea plan`: shows the estimated cost of a run in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from cliptea.config import Config
from cliptea.messages import plain
from cliptea.plan import REGIONS, Plan
from cliptea_pipeline.display import cell

__all__ = ["show_plan"]

SHOWN_TRIALS = 50
UNREAD = "unknown until the data are read"


def show_plan(console: Console, config: Config, plan: Plan, room: int) -> None:
    """Print the plan of a run. On a cluster, one run has room for `room` students."""
    tasks = ", ".join(name if number == 1 else f"{name} x {number}" for name, number in plan.steps.items())
    facts = Table.grid(padding=(0, 2))
    validated = [] if plan.validated_images == 0 else [("held-out images to score", _validated(plan))]
    for name, value in (
        ("steps", tasks),
        ("trainings", _trainings(plan.trainings, room)),
        ("training images", _count(plan.images)),
        ("views", _views(config, plan)),
        ("storage, tokens and regions", _storage(plan.view_bytes, plan.views)),
        ("storage, tokens to cluster", _storage(plan.dense_bytes, plan.views)),
        ("CLIP forward passes", _passes(plan)),
        *validated,
        ("all trainings", _trained(plan)),
        ("total GPU time", _hours(plan.gpu_hours, plan.views) + _assumed(plan)),
        ("storing tokens pays off", _pays(plan)),
    ):
        facts.add_row(name, value)
    console.print(facts)
    console.print()
    students = Table("backbone", "trainings", "parameters", "GPU time", "licence of its weights", box=None)
    for student in plan.students:
        parameters = f"{student.parameters / 1e6:.3f} M"
        licence = student.licence or "none are used"
        hours = _hours(student.gpu_hours, plan.validated_images)
        students.add_row(cell(student.backbone), str(student.trainings), parameters, hours, cell(licence))
    console.print(students)
    console.print()
    if plan.variants:
        variants = Table("variant", "what it is", box=None)
        for label, about in plan.variants.items():
            variants.add_row(cell(label), cell(about))
        console.print(variants)
        console.print()
    if plan.trials:
        trials = Table("trial", "settings", box=None)
        for name, settings in [*plan.trials.items()][:SHOWN_TRIALS]:
            trials.add_row(cell(name), cell(", ".join(f"{key}={value}" for key, value in settings.items())))
        console.print(trials)
        if (more := len(plan.trials) - SHOWN_TRIALS) > 0:
            console.print(f"and {more} more trials; --json lists all")
        console.print()
    for line in plan.missing or ["nothing that can be checked from this machine"]:
        console.print(plain(f"missing  {line}"), markup=False, highlight=False, soft_wrap=True)


def _sum(parts: list[float | None]) -> float | None:
    return None if None in parts else sum(part for part in parts if part is not None)


def _trainings(number: int, room: int) -> str:
    runs = -(-number // room)
    told = f"{number} (variants times seeds)"
    if runs == 1:
        return told
    each = f"at most {-(-number // runs)} in each, which has room for {room}"
    return f"{told}; on a cluster in {runs} runs with one comparison ({each}): cliptea submit --split {runs}"


def _count(number: int | None) -> str:
    return UNREAD if number is None else f"{number:,}".replace(",", " ")


def _validated(plan: Plan) -> str:
    """The size of all validations together."""
    counted = "in all validations; in the time of the trainings, each counts as one more trained image"
    return f"{_count(plan.validated_images)} ({counted})"


def _views(config: Config, plan: Plan) -> str:
    each = f"{config.teacher.views} of each image, {config.teacher.crop}x{config.teacher.crop} pixels"
    return each if plan.views is None else f"{_count(plan.views)} ({each})"


def _storage(size: int, views: int | None) -> str:
    each = f"{size / 1024:.1f} KiB a view"
    return each if views is None else f"{size * views / 2**30:.2f} GiB ({each})"


def _hours(hours: float | None, images: int | None) -> str:
    """The time for a number of images, where None is unknown."""
    if hours is not None:
        return f"{hours:.1f} GPU hours"
    return UNREAD if images is None else "unknown; add --throughput NAME=NUMBER"


def _trained(plan: Plan) -> str:
    if plan.validated_images is None:
        return f"{UNREAD}, because of the validations"
    return _hours(_sum([student.gpu_hours for student in plan.students]), plan.validated_images)


def _passes(plan: Plan) -> str:
    hours = plan.teacher_gpu_hours
    if not plan.passes_per_region and not plan.attention_passes:
        return _hours(hours, plan.views)
    text = f"{_hours(hours, plan.views)} for the views"
    if plan.attention_passes:
        text += f", {plan.attention_passes:.0%} more for tokens that attend to regions"
    if plan.passes_per_region:
        further = "" if hours is None else f", and {hours * plan.passes_per_region:.1f} for each region of a view"
        text += f"{further} (a view needs 1 + {plan.passes_per_region} x its regions)"
    return text


def _assumed(plan: Plan) -> str:
    counted = (plan.passes_per_region or plan.attention_passes) and plan.gpu_hours is not None
    return f", if a view has {REGIONS} regions" if counted else ""


def _pays(plan: Plan) -> str:
    if plan.pays_from is None:
        return UNREAD
    if plan.pays_from < 1:
        share = f"{plan.pays_from:.0%} of the images that it would see in one training without stored tokens"
        return f"from the first training: CLIP sees {share}"
    return f"after {plan.pays_from:.1f} trainings"
