"""One student's scores on the evaluation sets."""

from kfp.dsl import Artifact, Input, Output, component

from cliptea.steps.common import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    run: Input[Artifact],
    shards: Input[Artifact],
    cache: Input[Artifact],
    model: Input[Artifact],
    variant: str,
    scores: Output[Artifact],
):
    from cliptea.steps.common import read, run_step, variant_of, write

    def work():
        from cliptea.evaluation.evaluate import evaluate_variant
        from cliptea.runs import Run

        present = Run.model_validate(read(run))
        student = variant_of(present, variant)
        write(scores, evaluate_variant(present, student, read(shards), read(cache), read(model)))

    run_step("evaluate", work, run=read(run), label=variant, of=len(read(run)["variants"]))
