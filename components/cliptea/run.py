"""A run: a validated config, the digest of its data, and the variants that the pipeline trains in parallel."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pydantic import BaseModel

from cliptea import nested, variant_groups
from cliptea.config import Config
from cliptea.errors import ConfigError
from cliptea.manifest import Manifest, Output, fingerprint
from cliptea.messages import number_of
from cliptea.parts import Part
from cliptea.sweeps import Trial

__all__ = ["TRANSDUCTIVE", "Member", "Run", "Variant", "expand", "is_transductive", "require_room"]

TRANSDUCTIVE = "-transductive"  # end of the names of groups


class Member(BaseModel):
    """An entry of a results table: group and variant, such as table3 and no_ce."""

    group: str
    variant: str
    about: str = ""  # the variant in one line
    trial: Trial | None = None  # of a sweep

    @property
    def label(self) -> str:
        """As in its result rows."""
        return f"{self.group}/{self.variant}"


OTHER_GAMMA = "table3/no_cls_token"  # the paper measures this row with another gamma


class Variant(BaseModel):
    """One student to train, with its config and seed. It is listed in at least one group."""

    label: str
    seed: int
    members: list[Member]
    config: Config  # the run's config with the changes of the variant


class Run(BaseModel):
    """The output of the resolve step, which all other steps read."""

    config: Config
    data_digest: str
    evaluation_digests: dict[str, str] = {}  # data digests of the further evaluation sets, by name
    initial: dict[str, Manifest] = {}  # by the value of train.init_from, without the objects
    fingerprint: str
    job_id: str
    tracking_run: str  # id of the MLflow parent run
    variants: list[Variant]  # that this run trains
    part: Part = Part(1, 1)
    parts: list[Output] = []  # the results of all parts, if there are several

    @property
    def whole(self) -> Run:
        """The run with the students of all parts."""
        return self if self.part.of == 1 else self.model_copy(update={"variants": expand(self.config)})

    @property
    def abouts(self) -> dict[str, str]:
        """Label of a result row -> its variant in one line."""
        return {member.label: member.about for variant in self.variants for member in variant.members}

    def variant(self, label: str) -> Variant:
        """The variant with this label."""
        return next(variant for variant in self.variants if variant.label == label)


def expand(config: Config) -> list[Variant]:
    """All students to train. A student with several names is trained once and listed under each name.

    Raises:
        ConfigError: there are no variants, one of them is not valid, a sweep has no score that may choose among its
            trials, or two students have the same label.
    """
    found: dict[str, Variant] = {}
    base = config.model_copy(update={"variant_groups": {}})  # a student needs no others
    named = [
        (member, _resolved(base, member, changes))
        for group in config.variants
        for variant, delta in variant_groups.variant_group(group, config.variant_groups).items()
        for name, changes, trial in variant_groups.unfold(variant, delta, f"{group.partition('/')[0]}/{variant}")
        for about in [variant_groups.about_variant(changes, trial)]
        for member in [Member(group=group.partition("/")[0], variant=name, about=about, trial=trial)]
    ]
    named = [(_apart(member, resolved), resolved) for member, resolved in named]
    for seed in range(max((resolved.seeds for _, resolved in named), default=0)):
        for member, resolved in named:
            if seed >= resolved.seeds:
                continue
            same = fingerprint("variant", config=resolved.model_dump(exclude={"seeds"}), seed=seed)
            if same not in found:
                label = member.label + (f" seed {seed}" if resolved.seeds > 1 else "")
                found[same] = Variant(label=label, seed=seed, members=[], config=resolved)
            if member not in found[same].members:
                found[same].members.append(member)
    if not found:
        raise ConfigError("variants is empty", "at least one of " + ", ".join(variant_groups.variant_groups()))
    (label, times), *_ = Counter(variant.label for variant in found.values()).most_common(1)
    if times > 1:
        raise ConfigError(f"two students are called {label}", "another name of one variant", "rename it")
    return list(found.values())


def _resolved(config: Config, member: Member, delta: dict[str, Any]) -> Config:
    """The config of a variant. Only the row for which the paper names another gamma has another one than the run."""
    if member.label == OTHER_GAMMA:
        delta = nested.merge(delta, {"evaluation": {"gamma": config.evaluation.gamma_no_cls_token}})
    try:
        resolved = variant_groups.apply_delta(config, delta)
    except ConfigError as error:
        raise ConfigError(f"variant {member.label}: {error.what}", error.expected, error.todo) from None
    if member.trial and not resolved.train.validate_every:
        raise ConfigError(
            f"the sweep {member.group}/{member.trial.sweep} has no score that may choose among its trials",
            "validation on held-out training images; val images are never used to choose",
            "set train.validate_every=N, the iterations between two validations",
        )
    return resolved


def _apart(member: Member, config: Config) -> Member:
    """The member, in a group of its own if training knows the names of unseen classes.

    No table may mix the two settings.
    """
    if config.method.transductive.setting == "inductive":
        return member
    return member.model_copy(update={"group": f"{member.group}{TRANSDUCTIVE}"})


def is_transductive(group: str) -> bool:
    """Whether the students of a group knew the names of unseen classes in training."""
    return group.endswith(TRANSDUCTIVE)


def require_room(students: int, room: int, parts: int = 1) -> None:
    """Check that each of the parts, which are runs of the pipeline on a cluster, can train its share of the students.

    Args:
        students: number of students, which is variants times seeds.
        room: the largest number of students of one run, from the placement of the compiled pipeline.
        parts: number of runs.

    Raises:
        ConfigError: there are more students. The workflow would exceed Argo's limit of 1 MiB and fail halfway. Or there
            are more parts than students.
    """
    if parts > students:
        number = number_of(students, "student")
        expected = f"at most {number_of(students, 'run')}"
        raise ConfigError(f"{number} (variants times seeds) cannot be split into {parts} runs", expected)
    if students > room * parts:
        runs = "one run" if parts == 1 else f"{parts} runs"
        raise ConfigError(
            f"{students} students (variants times seeds) are too many for {runs} on a cluster, because the workflow of "
            "a run would exceed Argo's limit of 1 MiB",
            f"at most {room} in each, the placement's `students` minus half of its `token_parts`",
            f"start {-(-students // room)} runs with one comparison: cliptea submit --split {-(-students // room)}; "
            "or let the workflow controller offload its workflows, and raise `students` in the placement file",
        )
