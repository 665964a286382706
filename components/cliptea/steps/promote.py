"""The best student becomes champion when it beats the present one. The last step: after it the run is complete."""

from kfp.dsl import Artifact, Input, Output, component

from cliptea.steps.common import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def promote(run: Input[Artifact], comparison: Input[Artifact], decision: Output[Artifact]):
    from cliptea.steps.common import read, run_step, write

    def work():
        from cliptea.evaluation.compare import catch_up
        from cliptea.runs import Run
        from cliptea.tracking.promotion import promote
        from cliptea.tracking.state import mark_complete

        present = Run.model_validate(read(run))
        catch_up(present)
        write(decision, promote(present, read(comparison)))
        mark_complete(present.tracking_run)

    run_step("promote", work, run=read(run))
