"""Text features of class lists in the store."""

from __future__ import annotations

from functools import partial

import safetensors.torch
from torch import Tensor

from cliptea import device, progress
from cliptea.config import Config
from cliptea.manifest import Contents, Manifest, Output, make_once, put_object, read_object
from cliptea.storage import Store
from cliptea.teacher.clip import Teacher, open_teacher
from cliptea.teacher.demo_clip import demo_words, teacher_weights
from cliptea.teacher.outputs import TextSet
from cliptea.teacher.text import read_text_features, text_features

__all__ = ["load_text", "make_texts"]

TEXT = "text.safetensors"


def load_text(store: Store, text: Manifest) -> Tensor:
    """(N, D) float32 unit-norm text features in the order of the evaluation set's classes."""
    return safetensors.torch.load(read_object(store, text.objects[TEXT]))["text"]


def make_texts(store: Store, config: Config, prompts: dict[Output, TextSet]) -> dict[Output, Manifest]:
    """Create text features of class lists, from a file or with the teacher's text tower."""
    device.prepare()
    teacher, demo = open_teacher(teacher_weights(store, config), config.teacher), config.teacher.source.kind == "demo"
    return {
        output: make_once(store, output, partial(_make_text, store, teacher, prompt, output.prefix, demo))[0]
        for output, prompt in prompts.items()
    }


def _make_text(store: Store, teacher: Teacher, prompt: TextSet, prefix: str, demo: bool) -> Contents:
    strange = [name for name in prompt.classes if demo and not set(name.lower().split()) <= demo_words()]
    if strange:
        progress.warn(f"the demo's teacher does not know {', '.join(strange)}, so results for these are meaningless")
    if prompt.text_features is None:
        text_ND = text_features(teacher, prompt.classes, prompt.templates)
    else:
        text_ND = read_text_features(prompt.text_features, teacher, prompt.classes)
    data = safetensors.torch.save({"text": text_ND.cpu().contiguous()})
    objects = {TEXT: put_object(store, f"{prefix}/{TEXT}", data)}
    return Contents(objects, {"classes": prompt.classes, "unknown_words": strange})
