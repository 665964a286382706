"""The width of the teacher, as far as files tell it without torch."""

from __future__ import annotations

from cliptea.config import TeacherConfig
from cliptea.teacher.families import described_teacher

__all__ = ["DEMO_WIDTH", "teacher_width"]

DEMO_WIDTH = 64


def teacher_width(config: TeacherConfig) -> int | None:
    """The number of features of the teacher's tokens, or None if it is only known once the weights are read."""
    if config.source.kind == "demo":
        return DEMO_WIDTH
    try:
        return int((described_teacher(config) or {})["embed_dim"])
    except (KeyError, TypeError, ValueError):  # reported when the teacher is opened
        return None
