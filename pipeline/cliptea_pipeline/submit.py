"""`cliptea submit`: one run of the pipeline on a cluster."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cliptea import env, settings
from cliptea.errors import ConfigError
from cliptea.log_lines import Who, tell
from cliptea.parts import Part
from cliptea.storage import is_remote
from cliptea_pipeline.compile import pipeline_file
from cliptea_pipeline.endpoint import Endpoint
from cliptea_pipeline.fit import check_fit, read_compiled
from cliptea_pipeline.looks import run_page

__all__ = ["parameters", "store", "submit", "warn_of_image"]


def submit(endpoint: Endpoint, given: dict[str, object], experiment: str = "cliptea", file: Path | None = None) -> str:
    """Upload the pipeline, unless the server already has this version, start a run, and return its id.

    Args:
        given: the pipeline's parameters, from `parameters`.
        experiment: KFP's experiment, which is created if it does not exist.
        file: compiled pipeline; defaults to the one in the package.

    Raises:
        EndpointError: the server cannot be reached, or denies the request.
    """
    chosen = file or pipeline_file()
    version = endpoint.upload(chosen)
    if version.name != version.latest:
        tell(
            "info",
            f"note: this run uses version {version.name}; schedules keep using the newest upload, {version.latest}",
        )
    group = endpoint.experiment(experiment)
    part = Part.parse(str(given["part"]))
    names = [str(given["preset"]), part.name if part.of > 1 else "", time.strftime("%Y-%m-%d %H:%M:%S")]
    with endpoint.asked("the run may have started all the same: look in Pipelines before you submit it again"):
        run = endpoint.client.run_pipeline(
            group,
            " ".join(filter(None, names)),
            params=given,
            pipeline_id=version.pipeline,
            version_id=version.id,
        )
    warn_of_image(chosen)
    tell("info", f"run {run_page(endpoint, run.run_id) or run.run_id}", Who(run=run.run_id), sys.stdout)
    return run.run_id


def parameters(
    preset: str,
    overrides: Sequence[str],
    skip_unchanged: bool = False,
    file: Path | None = None,
    text: str = "",
    parts: int = 1,
) -> dict[str, object]:
    """The parameters of the pipeline with their types, checked before anything is sent.

    Args:
        preset, overrides, text: as for `settings.load`.
        skip_unchanged: end early if neither data, settings, weights nor the version of a step have changed since a run
            that finished.
        file: compiled pipeline that will run them; defaults to the one in the package.
        parts: number of runs that share the students.

    Raises:
        ConfigError: the settings are invalid or do not fit the pipeline, or the file is not a compiled pipeline.
    """
    for name in settings.variant_files_of(overrides):
        if not is_remote(name):
            raise ConfigError(
                f"variants names the file {name} on this machine, where pods cannot read it",
                "an s3:// address",
                "or name it in a file for --config, which is sent together with its variants",
            )
    check_fit(settings.load(preset, list(overrides), text), read_compiled(file or pipeline_file()), parts)
    given = {"preset": preset, "config": text, "overrides": list(overrides), "skip_unchanged": skip_unchanged}
    return {**given, "part": ""}


def store(file: Path | None = None) -> str:
    """URI of the store that the steps of a compiled pipeline write to, or "" if it is not known on this machine."""
    return read_compiled(file or pipeline_file()).store or env.STORE.get()


def warn_of_image(file: Path) -> None:
    """Print a warning if nodes cannot pull the image of a compiled pipeline."""
    image = read_compiled(file).image
    if "/" not in image:
        tell(
            "warning",
            f"the image {image} names no registry, so only nodes that already hold it can run it; to use an "
            "image from a registry, run `cliptea compile` with --image or --placement and submit its file with "
            "--pipeline",
        )
