"""The labels that the pipeline's loop runs over.

This is a separate task, because kfp can only loop over a single output.
"""

from kfp import dsl

from cliptea.steps.component import step


@step()
def variants(run: dsl.Input[dsl.Artifact]) -> list:
    from cliptea.steps.common import run_step

    return run_step("variants", lambda present: [variant.label for variant in present.variants], run=run)
