"""What CLIP said, published: the tokens and region maps of all parts, and the text features."""

from typing import List  # noqa: UP035 (kfp resolves no list[Artifact])

from kfp.dsl import Artifact, Input, Output, component

from cliptea.steps.common import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def teacher(
    run: Input[Artifact],
    shards: Input[Artifact],
    made: Input[List[Artifact]],  # noqa: UP006
    cache: Output[Artifact],
):
    from cliptea.steps.common import read, run_step, write

    def work():
        from cliptea.runs import Run
        from cliptea.teacher.build import build_cache

        write(cache, build_cache(Run.model_validate(read(run)), read(shards), [read(part) for part in made]))

    run_step("teacher", work, run=read(run))
