"""The measured speed of each student, an output of the evaluate step. It also opens students for this step."""

from typing import TYPE_CHECKING

from cliptea import progress
from cliptea.config import SERVED, Config
from cliptea.errors import named
from cliptea.manifest import Contents, Manifest, Output, fingerprint, read_object
from cliptea.storage import Store

if TYPE_CHECKING:
    from cliptea.models.student import Student

__all__ = ["inputs_of", "measure_speed", "open_student", "speed_output"]


def speed_output(config: Config, text: Manifest, trained: Manifest) -> Output:
    """The output for a student and the text features of its classes. Its measurement is reused, and names its device.

    It is not a result: among other outputs, only the report contains it.
    """
    evaluation = config.evaluation.counting(*(type(config.evaluation).model_fields.keys() - SERVED))
    fp = fingerprint("speed", evaluation=evaluation, model=trained.fingerprint, text=text.fingerprint)
    return Output("speed", fp)


def measure_speed(store: Store, config: Config, text: Manifest, trained: Manifest) -> Contents:
    """Measure the student on the best device of this machine."""
    from cliptea import device
    from cliptea.evaluation.inference_speed import measure_inference
    from cliptea.teacher.text import load_text

    device.prepare()
    text_ND = load_text(store, text).to(device.best())
    progress.note("measuring the speed of the student, which takes a few seconds")
    found = measure_inference(open_student(store, config, trained), text_ND, config.evaluation)
    return Contents({}, found.model_dump(), inputs_of(trained))


def inputs_of(trained: Manifest) -> dict[str, str]:
    """What the scores and the speed of a student are made of, for their manifests."""
    return {"weights": trained.objects["model.safetensors"].sha256}


def open_student(store: Store, config: Config, trained: Manifest) -> "Student":
    """The trained network in eval mode, on the best device."""
    import safetensors.torch

    from cliptea import device
    from cliptea.segment.segmenter import load_student

    file = trained.objects["model.safetensors"]
    weights = safetensors.torch.load(read_object(store, file))
    backbone = config.student.backbone  # from the settings, because a manifest must not name code to import
    with named(store.uri(file.key)):
        network = load_student(backbone, int(trained.info["dim"]), weights, config.method.feature_norm)
        return network.to(device.best())
