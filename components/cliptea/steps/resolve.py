"""Resolve preset and overrides into one run: config, digest of the data, variants."""

from kfp.dsl import Artifact, Output, component

from cliptea.steps.common import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def resolve(preset: str, overrides: list, job_id: str, run: Output[Artifact]):
    from cliptea.steps.common import step, write

    with step("resolve"):
        from cliptea.resolve import start_run

        write(run, start_run(preset, overrides, job_id).model_dump(mode="json"))
