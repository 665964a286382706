"""One student, trained by a TrainJob: the train step where the placement's launcher is `trainjob`."""

from kfp.dsl import Artifact, Input, Output, TaskConfig, TaskConfigField, TaskConfigPassthrough, component

from cliptea.steps.common import IMAGE


# The step's own pod only follows: resources and nodes are handed on, environment and volumes are needed by both.
@component(
    base_image=IMAGE,
    install_kfp_package=False,
    task_config_passthroughs=[
        TaskConfigField.RESOURCES,
        TaskConfigField.KUBERNETES_NODE_SELECTOR,
        TaskConfigField.KUBERNETES_TOLERATIONS,
        TaskConfigField.KUBERNETES_AFFINITY,
        TaskConfigPassthrough(field=TaskConfigField.ENV, apply_to_task=True),
        TaskConfigPassthrough(field=TaskConfigField.KUBERNETES_VOLUMES, apply_to_task=True),
    ],
)
def launch(
    run: Input[Artifact],
    shards: Input[Artifact],
    cache: Input[Artifact],
    variant: str,
    settings: dict,
    model: Output[Artifact],
    task_config: TaskConfig,
):
    from cliptea.steps.common import read, run_step, variant_of, write

    def work():
        from cliptea.cluster.launch import launch_variant
        from cliptea.runs import Run

        present, placement = Run.model_validate(read(run)), vars(task_config)
        student = variant_of(present, variant)
        write(model, launch_variant(present, student, read(shards), read(cache), settings, placement))

    run_step("train", work, run=read(run), label=variant, of=len(read(run)["variants"]))
