"""Exit handler: closes the tracking run with its true state."""

from kfp.dsl import PipelineTaskFinalStatus, component

from cliptea.steps.common import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def finish(job_id: str, status: PipelineTaskFinalStatus):
    from cliptea.steps.common import run_step

    def work():
        from cliptea.tracking.finish import finish

        finish(job_id, status.state, status.error_message or "")

    run_step("finish", work, job_id=job_id)
