"""Student networks: any segmentation network whose dense features have the teacher's width."""

from cliptea.models.backbones import STUDENTS, build_student

__all__ = ["STUDENTS", "build_student"]
