"""The pipeline: its steps and their dependencies."""

# pyright: reportCallIssue=false, reportArgumentType=false, reportReturnType=false, reportAttributeAccessIssue=false
# (kfp's decorators make task factories of the steps' functions, and do not say so in types)

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from cliptea.steps.compare import compare
from cliptea.steps.evaluate import evaluate
from cliptea.steps.finish import finish
from cliptea.steps.launch import launch
from cliptea.steps.promote import promote
from cliptea.steps.resolve import resolve
from cliptea.steps.split import split
from cliptea.steps.teacher import teacher
from cliptea.steps.tokens import tokens
from cliptea.steps.train import train
from cliptea.steps.variants import variants
from cliptea_pipeline.placed_tasks import job_settings, placed
from cliptea_pipeline.placement import Placement

__all__ = ["cliptea_pipeline"]


def cliptea_pipeline(placement: Placement) -> BaseComponent:
    """The pipeline with every step where the placement says, to be compiled by kfp."""

    def place(task: dsl.PipelineTask, name: str = "") -> dsl.PipelineTask:
        return placed(task, name or task.name, placement)

    def student(**inputs) -> dsl.PipelineTask:
        if placement.launcher == "trainjob":
            return place(launch(settings=job_settings(placement), **inputs).set_display_name("train"), "train")
        return place(train(**inputs))

    @dsl.pipeline(name="cliptea", description="Zero-shot segmentation by distilling CLIP (arXiv 2310.02296).")
    def cliptea(
        preset: str = "demo",
        config: str = "",
        overrides: list = [],  # noqa: B006 (kfp's)
        skip_unchanged: bool = False,
        part: str = "",
    ):
        job_id = dsl.PIPELINE_JOB_ID_PLACEHOLDER
        with dsl.ExitHandler(place(finish(job_id=job_id))):
            given = {"preset": preset, "config": config, "overrides": overrides, "skip_unchanged": skip_unchanged}
            resolved = place(resolve(**given, part=part, job_id=job_id))
            run = resolved.outputs["run"]
            with dsl.If(resolved.outputs["Output"] == "changed", name="something-to-do"):
                shards = place(split(run=run)).outputs["shards"]
                parts = placement.token_parts
                with dsl.ParallelFor(list(range(parts)), name="views") as number:
                    made = place(tokens(run=run, shards=shards, part=number, parts=parts)).outputs["made"]
                cache = place(teacher(run=run, shards=shards, made=dsl.Collected(made))).outputs["cache"]
                labels = place(variants(run=run)).output
                with dsl.ParallelFor(labels, name="students", parallelism=placement.students_at_a_time) as variant:
                    model = student(run=run, shards=shards, cache=cache, variant=variant).outputs["model"]
                    scored = place(evaluate(run=run, shards=shards, cache=cache, model=model, variant=variant))
                scores = dsl.Collected(scored.outputs["scores"])
                compared = place(compare(run=run, shards=shards, cache=cache, scores=scores))
                place(promote(run=run, comparison=compared.outputs["comparison"]))

    return cliptea
