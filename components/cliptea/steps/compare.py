"""Tables, figures and the report over all students."""

from typing import List  # noqa: UP035 (kfp resolves no list[Artifact])

from kfp.dsl import HTML, Artifact, Input, Output, component

from cliptea.steps.common import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def compare(
    run: Input[Artifact],
    shards: Input[Artifact],
    cache: Input[Artifact],
    scores: Input[List[Artifact]],  # noqa: UP006
    comparison: Output[Artifact],
    report: Output[HTML],
):
    from cliptea.steps.common import read, run_step, write

    def work():
        from pathlib import Path

        from cliptea.evaluation.compare import compare_variants
        from cliptea.runs import Run
        from cliptea.storage import read_uri

        present = Run.model_validate(read(run))
        made = compare_variants(present, read(shards), read(cache), [read(item) for item in scores])
        write(comparison, made)
        Path(report.path).write_bytes(read_uri(made["report"]))

    run_step("compare", work, run=read(run))
