"""Resolve preset and overrides into one run: config, digest of the data, variants."""

from kfp.dsl import Artifact, Output, component

from cliptea.steps.common import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def resolve(preset: str, overrides: list, skip_unchanged: bool, job_id: str, run: Output[Artifact]) -> str:
    from cliptea.steps.common import run_step, write

    def work() -> str:
        from cliptea.resolve import start_run

        present = start_run(preset, overrides, job_id)
        write(run, present.model_dump(mode="json"))
        if skip_unchanged:
            from cliptea.cluster.unchanged import skip

            if skip(present):
                return "unchanged"
        return "changed"

    return run_step("resolve", work, job_id=job_id)
