"""Exit handler: closes the tracking run with its true state."""

from kfp.dsl import PipelineTaskFinalStatus, component

from cliptea.steps.common import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def finish(job_id: str, skip_unchanged: bool, status: PipelineTaskFinalStatus):
    from cliptea.steps.common import step

    with step("finish"):
        from cliptea.tracking.finish import finish

        state = status.state
        if skip_unchanged:
            from cliptea.cluster.unchanged import was_skipped

            if was_skipped(job_id):  # KFP counts steps behind a condition that does not hold as not ended
                state = "SUCCEEDED"
        finish(job_id, state, status.error_message or "")
