"""The labels that the pipeline's loop runs over. A task of its own: kfp loops over single outputs only."""

from kfp.dsl import Artifact, Input, component

from cliptea.steps.common import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def variants(run: Input[Artifact]) -> list:
    from cliptea.steps.common import read, run_step

    present = read(run)
    return run_step("variants", lambda: [variant["label"] for variant in present["variants"]], run=present)
