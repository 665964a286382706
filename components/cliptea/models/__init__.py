"""Student networks: any per-pixel segmentation network with features of the teacher's width."""

from cliptea.models.backbones import STUDENTS, build_student

__all__ = ["STUDENTS", "build_student"]
