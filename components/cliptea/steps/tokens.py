"""CLIP's tokens and the region maps of a part of the views, in shards; `teacher` publishes those of all parts."""

from kfp.dsl import Artifact, Input, Output, component

from cliptea.steps.common import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def tokens(run: Input[Artifact], shards: Input[Artifact], part: int, parts: int, made: Output[Artifact]):
    from cliptea.steps.common import read, run_step, write

    def work():
        from cliptea.runs import Run
        from cliptea.teacher.build import make_blocks

        write(made, make_blocks(Run.model_validate(read(run)), read(shards), part, parts))

    label = f"part {part + 1} of {parts}" if parts > 1 else ""
    run_step("tokens", work, run=read(run), label=label, of=parts)
