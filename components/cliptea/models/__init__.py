"""Student networks: any per-pixel segmentation network that gives the teacher's width of features."""

from cliptea.models.backbones import STUDENTS, build_student

__all__ = ["STUDENTS", "build_student"]
