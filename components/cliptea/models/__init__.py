"""Student networks: any per-pixel segmentation network that gives the teacher's width of features."""

from cliptea.models.registry import STUDENTS, build_student

__all__ = ["STUDENTS", "build_student"]
