"""Raw data to train and val shards."""

from kfp.dsl import Artifact, Input, Output, component

from cliptea.steps.common import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def split(run: Input[Artifact], shards: Output[Artifact]):
    from cliptea.steps.common import read, run_step, write

    def work():
        from cliptea.data.split import build_splits
        from cliptea.runs import Run
        from cliptea.tracking.data import log_data

        present = Run.model_validate(read(run))
        made = build_splits(present)
        log_data(present, made)
        write(shards, made)

    run_step("split", work, run=read(run))
