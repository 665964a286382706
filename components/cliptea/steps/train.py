"""One student."""

from kfp.dsl import Artifact, Input, Output, component

from cliptea.steps.common import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def train(
    run: Input[Artifact],
    shards: Input[Artifact],
    cache: Input[Artifact],
    variant: str,
    model: Output[Artifact],
):
    from cliptea.steps.common import read, run_step, variant_of, write

    def work():
        from cliptea.runs import Run
        from cliptea.training.train import train_variant

        present = Run.model_validate(read(run))
        write(model, train_variant(present, variant_of(present, variant), read(shards), read(cache)))

    run_step("train", work, run=read(run), label=variant, of=len(read(run)["variants"]))
