"""The labels that the pipeline's loop runs over. A task of its own: kfp loops over single outputs only."""

from kfp.dsl import Artifact, Input, component

from cliptea.steps.common import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def variants(run: Input[Artifact]) -> list:
    from cliptea.steps.common import read, step

    with step("variants"):
        return [variant["label"] for variant in read(run)["variants"]]
