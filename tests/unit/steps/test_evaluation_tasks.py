"""Which sets a student is scored on, and with which gamma."""

import pytest

from cliptea import settings
from cliptea.manifest import Manifest
from cliptea.steps.evaluate import evaluation_tasks
from cliptea.steps.split import Splits
from cliptea.steps.teacher import TeacherCache


@pytest.mark.parametrize(("trained_with", "own"), [("true", 1.5), ("false", 5.0)])
def test_gamma_is_the_preset_s_and_without_the_global_loss_table_3_s(trained_with, own):
    overrides = ["evaluation.sets.street.root=/street", "evaluation.sets.street.gamma=0.25"]
    config = settings.load("voc12", [*overrides, f"method.losses.cls_token={trained_with}"])
    mine, street = (Manifest(kind="split", fingerprint=name) for name in ("own", "street"))
    text = {"voc12": Manifest(kind="text", fingerprint="a"), "street": Manifest(kind="text", fingerprint="b")}
    cache = TeacherCache.model_construct(text=text)
    tasks = evaluation_tasks(config, Splits(own=mine, others={"street": street}), cache)
    assert [(task.label, task.gamma) for task in tasks] == [("voc12", own), ("street", 0.25)]
    assert [(task.split.fingerprint, task.text.fingerprint) for task in tasks] == [("own", "a"), ("street", "b")]
