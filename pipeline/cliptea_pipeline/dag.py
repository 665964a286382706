"""The pipeline: which step needs which."""

# pyright: reportCallIssue=false, reportArgumentType=false, reportReturnType=false
# (kfp's decorators make task factories of the steps' functions, and do not say so in types)

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from cliptea.steps.common import IMAGE
from cliptea.steps.compare import compare
from cliptea.steps.evaluate import evaluate
from cliptea.steps.finish import finish
from cliptea.steps.promote import promote
from cliptea.steps.resolve import resolve
from cliptea.steps.split import split
from cliptea.steps.teacher import teacher
from cliptea.steps.train import train
from cliptea.steps.variants import variants

__all__ = ["cliptea_pipeline"]


def cliptea_pipeline(image: str = IMAGE) -> BaseComponent:
    """The pipeline with every step in the given container image, to be compiled by kfp."""

    def place(task: dsl.PipelineTask) -> dsl.PipelineTask:
        # kfp's cache knows image and arguments only; the manifests in the store know what can be reused.
        return task.set_container_image(image).set_caching_options(False)

    @dsl.pipeline(name="cliptea", description="Zero-shot segmentation by distilling CLIP (arXiv 2310.02296).")
    def cliptea(preset: str = "demo", overrides: list = []):  # noqa: B006 (kfp reads the default)
        job_id = dsl.PIPELINE_JOB_ID_PLACEHOLDER
        with dsl.ExitHandler(place(finish(job_id=job_id))):
            run = place(resolve(preset=preset, overrides=overrides, job_id=job_id)).outputs["run"]
            shards = place(split(run=run)).outputs["shards"]
            cache = place(teacher(run=run, shards=shards)).outputs["cache"]
            with dsl.ParallelFor(place(variants(run=run)).output, name="students") as variant:
                model = place(train(run=run, shards=shards, cache=cache, variant=variant)).outputs["model"]
                scores = place(evaluate(run=run, shards=shards, cache=cache, model=model, variant=variant)).outputs[
                    "scores"
                ]
            compared = place(compare(run=run, shards=shards, cache=cache, scores=dsl.Collected(scores)))
            place(promote(run=run, comparison=compared.outputs["comparison"]))

    return cliptea
