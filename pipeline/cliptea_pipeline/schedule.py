"""`cliptea schedule`: recurring runs of the pipeline's latest version on a cluster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from cliptea.errors import ConfigError
from cliptea.steps.kfp_inside import api_client
from cliptea_pipeline.compile import pipeline_file
from cliptea_pipeline.endpoint import PAGE, Endpoint, all_pages
from cliptea_pipeline.fit import PARAMETERS
from cliptea_pipeline.looks import ENDED
from cliptea_pipeline.submit import warn_of_image

__all__ = ["Schedule", "change", "create", "known_jobs", "listed", "require_cron"]

# The fields of a cron expression, with their smallest and largest number and the names for numbers, of which the first
# one stands for the smallest. Source: the package robfig/cron, version 1, which KFP's controller uses.
FIELDS = (
    (0, 59, ()),
    (0, 59, ()),
    (0, 23, ()),
    (1, 31, ()),
    (1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    (0, 6, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)
WORDS = re.compile(
    r"@(hourly|daily|midnight|weekly|monthly|yearly|annually)|@every (?=.*[1-9])([0-9]+(\.[0-9]+)?[hms])+"
)


class Schedule(NamedTuple):
    """A recurring run, as `cliptea schedule --list` shows it."""

    name: str
    state: str  # enabled or disabled, and whether its pipeline was deleted or has another name
    cron: str
    preset: str
    id: str


def create(
    endpoint: Endpoint,
    name: str,
    cron: str,
    given: dict[str, object],
    experiment: str = "cliptea",
    file: Path | None = None,
) -> str:
    """Create a schedule and return its id. A run waits for the previous one. Of missed runs, the last is made up.

    Args:
        name: of the schedule, which must be unique.
        cron: checked by `require_cron`; in the time zone of KFP's controller.
        given, experiment, file: as for `submit`. The file becomes the newest version of the pipeline. All schedules use
            the newest version, including later ones.

    Raises:
        ConfigError: the name is taken.
        EndpointError: the server cannot be reached, or denies the request.
    """
    import kfp_server_api

    if any(schedule.name == name for schedule in listed(endpoint)):
        raise ConfigError(
            f"the schedule {name!r} already exists",
            "a new name",
            "choose one with --name, or delete the existing schedule",
        )
    chosen, group = file or pipeline_file(), endpoint.experiment(experiment)
    version = endpoint.upload(chosen, as_latest=True)  # last, because all schedules use it from now on
    body = kfp_server_api.V2beta1RecurringRun(
        display_name=name,
        experiment_id=group,
        # A reference without a version follows the newest one. Client.create_recurring_run does not support this,
        # because it drops a pipeline without a version.
        pipeline_version_reference=kfp_server_api.V2beta1PipelineVersionReference(pipeline_id=version.pipeline),
        runtime_config=kfp_server_api.V2beta1RuntimeConfig(parameters=given),
        trigger=kfp_server_api.V2beta1Trigger(cron_schedule=kfp_server_api.V2beta1CronSchedule(cron=cron)),
        mode=kfp_server_api.RecurringRunMode.ENABLE,
        max_concurrency="1",
        no_catchup=True,
    )
    with endpoint.asked("the schedule may exist all the same: see `cliptea schedule --list` before you try again"):
        api: Any = kfp_server_api.RecurringRunServiceApi(api_client(endpoint.client))
        made = api.recurring_run_service_create_recurring_run(body)
    warn_of_image(chosen)
    return made.recurring_run_id


def listed(endpoint: Endpoint) -> list[Schedule]:
    """All schedules of the pipeline `cliptea`, and of deleted or renamed pipelines with the same parameters."""
    pipeline = endpoint.pipeline()
    with endpoint.asked():
        found = all_pages(
            lambda token: endpoint.client.list_recurring_runs(
                page_token=token, page_size=PAGE, namespace=endpoint.namespace
            ),
            "recurring_runs",
        )
        known = PARAMETERS - {"config", "part"}  # which earlier versions did not have
        return [_shown(run, pipeline) for run in found if _follows(run, pipeline) or _given(run).keys() >= known]


def known_jobs(endpoint: Endpoint) -> dict[str, str]:
    """The ids of all runs, and why each is in use: it is active, or the last one of a schedule. Otherwise, it is ""."""
    schedules = {schedule.id: schedule.name for schedule in listed(endpoint)}
    with endpoint.asked():
        pages = all_pages(
            lambda token: endpoint.client.list_runs(page_token=token, page_size=PAGE, namespace=endpoint.namespace),
            "runs",
        )
        runs = sorted(pages, key=lambda run: run.created_at)
    last = {schedules.get(run.recurring_run_id): run.run_id for run in runs}  # by the name of the schedule
    jobs = {run.run_id: "" if run.state in ENDED else "it is active in Kubeflow Pipelines" for run in runs}
    return jobs | {job: f"it is the last run of the schedule {name}" for name, job in last.items() if name is not None}


def change(endpoint: Endpoint, name: str, action: str) -> None:
    """Pause, resume or delete a schedule.

    Args:
        action: disable: start no more runs until it is resumed; a run that is already active continues. enable: start
            runs again, at once if a scheduled time was missed. delete: its runs are kept.

    Raises:
        ConfigError: there is no such schedule.
    """
    schedules = {schedule.name: schedule.id for schedule in listed(endpoint)}
    if not schedules:
        raise ConfigError(f"the schedule {name!r} does not exist: there are no schedules")
    if name not in schedules:
        raise ConfigError(f"the schedule {name!r} does not exist", "one of " + ", ".join(schedules))
    with endpoint.asked():
        getattr(endpoint.client, f"{action}_recurring_run")(schedules[name])


def require_cron(cron: str) -> None:
    """Reject cron expressions that KFP's controller cannot read.

    Raises:
        ConfigError: it does not have six fields, or a field has other numbers or names.
    """
    if WORDS.fullmatch(cron):
        return
    texts, bad = cron.split(), None
    if len(texts) == len(FIELDS):
        bad = next((text for text, field in zip(texts, FIELDS, strict=True) if not _is_field(text, *field)), None)
        if bad is None:
            return
    five = " (yours has five: add 0, the second, at the front)" if len(texts) == 5 else ""
    raise ConfigError(
        f"cannot read {f'{bad!r} in ' if bad else ''}the cron expression {cron!r}",
        f"six fields{five}, seconds first and days of the week from 0 to 6, for example '0 0 3 * * 0' for Sundays at "
        "3 am; or @daily or @weekly",
    )


def _is_field(text: str, low: int, high: int, names: tuple[str, ...]) -> bool:
    """Whether a field is a list of numbers, ranges and * or ?, each perhaps with a step."""
    numbers = {name: low + place for place, name in enumerate(names)} | {str(n): n for n in range(low, high + 1)}
    for part in text.lower().split(","):
        span, slash, step = part.partition("/")
        ends = [numbers.get(end.lstrip("0") or end[:1], -1) for end in span.split("-")]
        if span not in ("*", "?") and (len(ends) > 2 or -1 in ends or ends != sorted(ends)):
            return False
        if slash and not re.fullmatch(r"0*[1-9][0-9]{0,3}", step):
            return False
    return True


def _follows(run: Any, pipeline: str | None) -> bool:
    reference = run.pipeline_version_reference
    return pipeline is not None and reference is not None and reference.pipeline_id == pipeline


def _given(run: Any) -> dict[str, Any]:
    return (run.runtime_config and run.runtime_config.parameters) or {}


def _shown(run: Any, pipeline: str | None) -> Schedule:
    cron = run.trigger.cron_schedule.cron if run.trigger and run.trigger.cron_schedule else ""
    lost = "" if _follows(run, pipeline) else ", follows a pipeline that was deleted or has another name"
    state = (run.status or "").lower() + lost
    return Schedule(run.display_name, state, cron, str(_given(run).get("preset", "")), run.recurring_run_id)
