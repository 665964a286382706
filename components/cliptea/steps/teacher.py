"""Views of the train images with CLIP's tokens and region maps, and the text features."""

from kfp.dsl import Artifact, Input, Output, component

from cliptea.steps.common import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def teacher(run: Input[Artifact], shards: Input[Artifact], cache: Output[Artifact]):
    from cliptea.steps.common import read, step, write

    with step("teacher"):
        from cliptea.runs import Run
        from cliptea.teacher.cache import build_cache

        write(cache, build_cache(Run.model_validate(read(run)), read(shards)))
