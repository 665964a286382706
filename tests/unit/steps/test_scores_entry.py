"""What a model says about itself when it goes to MLflow."""

from types import SimpleNamespace

from cliptea.data.catalogue import make_catalogue
from cliptea.segment.model_files import Description
from cliptea.settings import load
from cliptea.steps.scores_entry import _description


def test_a_model_names_its_clip_with_the_sha256():
    config = load("demo", ["teacher.weights=s3://weights/clip.pt", "teacher.model=ViT-B-16-quickgelu"])
    task = SimpleNamespace(catalogue=make_catalogue(["sky", "cow"], ["cow"]), gamma=0.5)
    trained = SimpleNamespace(info={"dim": 512})
    told = Description.model_validate(_description(SimpleNamespace(initial={}), config, task, trained, "1f" * 32))
    assert told.teacher is not None
    assert (told.teacher.weights, told.teacher.sha256) == ("s3://weights/clip.pt", "1f" * 32)
    assert (told.teacher.demo, told.evaluation.gamma, told.classes) == (None, 0.5, ["sky", "cow"])
