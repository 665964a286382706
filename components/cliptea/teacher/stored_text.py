"""Text features of class lists, and the teacher that a run names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import safetensors.torch
from torch import Tensor

from cliptea import device, progress
from cliptea.manifest import Manifest, publish, put_object, read_object
from cliptea.storage import Store
from cliptea.teacher.cache import TextSet
from cliptea.teacher.clip import Teacher, load_teacher
from cliptea.teacher.demo_clip import DEMO, demo_weights, demo_words
from cliptea.teacher.text import read_text_features, text_features

if TYPE_CHECKING:
    from cliptea.runs import Run

__all__ = ["load_text", "make_texts", "open_teacher", "prepare_weights"]

TEXT = "text.safetensors"


def load_text(store: Store, text: Manifest) -> Tensor:
    """(N, D) float32 unit-norm text features in the order of the evaluation set's classes."""
    return safetensors.torch.load(read_object(store, text.objects[TEXT]))["text"]


def make_texts(store: Store, run: Run, prompts: dict[str, TextSet]) -> dict[str, Manifest]:
    """Text features of class lists by fingerprint: read from a file, or from the teacher's text tower."""
    if not prompts:
        return {}
    device.prepare()
    teacher = open_teacher(prepare_weights(store, run), run)
    return {
        fp: _make_text(store, teacher, prompt, fp, run.config.teacher.weights == DEMO) for fp, prompt in prompts.items()
    }


def _make_text(store: Store, teacher: Teacher, prompt: TextSet, fp: str, demo: bool) -> Manifest:
    strange = [name for name in prompt.classes if demo and not set(name.lower().split()) <= demo_words()]
    if strange:
        progress.warn(f"the demo's teacher does not know {', '.join(strange)}: results for these mean nothing")
    if prompt.text_features is None:
        text_ND = text_features(teacher, prompt.classes, prompt.templates)
    else:
        text_ND = read_text_features(prompt.text_features, teacher, prompt.classes)
    data = safetensors.torch.save({"text": text_ND.cpu().contiguous()})
    objects = {TEXT: put_object(store, f"text/{fp}/{TEXT}", data)}
    info = {"classes": prompt.classes, "unknown_words": strange}
    return publish(store, Manifest(kind="text", fingerprint=fp, objects=objects, info=info))


def prepare_weights(store: Store, run: Run) -> str:
    """What `open_teacher` loads: the run's `teacher.weights`, or a folder with the demo's, which is trained first."""
    weights = run.config.teacher.weights
    return str(demo_weights(store, run.config)) if weights == DEMO else weights or ""


def open_teacher(weights: str, run: Run) -> Teacher:
    """The teacher on the device that is best; its weights are in float32."""
    config = run.config.teacher
    return load_teacher(weights, config.model, config.crop).to(device.best())
