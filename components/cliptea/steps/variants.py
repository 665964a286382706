"""The labels that the pipeline's loop runs over: a task of its own, since kfp loops only over a single output."""

from kfp.dsl import Artifact, Input, component

from cliptea.steps.common import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def variants(run: Input[Artifact]) -> list:
    from cliptea.steps.common import read, step

    with step("variants"):
        return [variant["label"] for variant in read(run)["variants"]]
