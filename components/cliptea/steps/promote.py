"""The best student becomes champion when it beats the present one."""

from kfp.dsl import Artifact, Input, Output, component

from cliptea.steps.common import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def promote(run: Input[Artifact], comparison: Input[Artifact], decision: Output[Artifact]):
    from cliptea.steps.common import read, step, write

    with step("promote"):
        from cliptea.runs import Run
        from cliptea.tracking.promotion import promote

        write(decision, promote(Run.model_validate(read(run)), read(comparison)))
