"""Which sets a student is scored on, and with which gamma."""

from cliptea import settings
from cliptea.manifest import Manifest
from cliptea.run import expand
from cliptea.steps.evaluation_tasks import EvaluationTask, evaluation_tasks, scores_output
from cliptea.steps.speed import speed_output
from cliptea.steps.split import Splits
from cliptea.steps.teacher import TeacherCache


def test_gamma_is_the_preset_s_and_that_of_each_further_set():
    overrides = ["evaluation.sets.street.root=/street", "evaluation.sets.street.gamma=0.25"]
    config = settings.load("voc12", overrides)
    mine, street = (Manifest(kind="split", fingerprint=name) for name in ("own", "street"))
    text = {"voc12": Manifest(kind="text", fingerprint="a"), "street": Manifest(kind="text", fingerprint="b")}
    cache = TeacherCache.model_construct(text=text)
    tasks = evaluation_tasks(config, Splits(own=mine, others={"street": street}), cache)
    assert [(task.label, task.gamma) for task in tasks] == [("voc12", 1.5), ("street", 0.25)]
    assert [(task.split.fingerprint, task.text.fingerprint) for task in tasks] == [("own", "a"), ("street", "b")]


def test_gamma_5_belongs_to_the_one_row_that_the_paper_names():
    """Neither a baseline without L_global nor a run without it has it."""
    groups = "variants=[table3, table4, table5, baselines, backbones]"
    for overrides in ([groups], [groups, "method.losses.cls_token=false"]):
        gammas = {
            (member.group, member.variant): variant.config.evaluation.gamma
            for variant in expand(settings.load("pascal_context", overrides))
            for member in variant.members
        }
        assert {name for name, gamma in gammas.items() if gamma != 1.5} == {("table3", "no_cls_token")}
        assert gammas["table3", "no_cls_token"] == 5.0
    demo = expand(settings.load("demo"))
    assert {variant.config.evaluation.gamma for variant in demo} == {0.0}


def test_threads_and_batches_are_no_part_of_scores_and_a_precision_only_if_it_is_another():
    split, text, model = (Manifest(kind=kind, fingerprint=kind[0] * 16) for kind in ("split", "text", "train"))

    def outputs(*overrides):
        config = settings.load("demo", list(overrides))
        task = EvaluationTask("demo", split, text, 0.5)
        return scores_output(config, task, model).fingerprint, speed_output(config, text, model).fingerprint

    usual, speed = outputs()
    assert usual == "948d3898559dce8b"  # pinned, so that no setting counts by accident
    assert outputs("evaluation.workers=3", "evaluation.batch_size=4") == (usual, speed)
    half, half_speed = outputs("evaluation.precision=bfloat16")
    assert half != usual
    assert half_speed != speed
    assert outputs("evaluation.gamma=3", "evaluation.figures=2")[1] == speed
