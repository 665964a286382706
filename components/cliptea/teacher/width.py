"""The width of the teacher, as far as files tell it without torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from cliptea.config import TeacherConfig
from cliptea.errors import ConfigError
from cliptea.parse import parse_json, read_text

__all__ = ["DEMO_WIDTH", "teacher_width"]

DEMO_WIDTH = 64
FOLDER = "open_clip_config.json"  # in a folder of weights


def teacher_width(config: TeacherConfig) -> int | None:
    """The number of features of the teacher's tokens, or None if it is only known once the weights are read."""
    source = config.source
    if source.kind == "demo":
        return DEMO_WIDTH
    if source.kind == "remote" and not Path(source.text).suffix:  # a folder, which has its own architecture
        return None
    file = Path(source.text).expanduser() / FOLDER
    package = importlib.util.find_spec("open_clip")
    if not file.is_file() and package is not None and package.origin is not None:
        file = Path(package.origin).parent / "model_configs" / f"{config.model}.json"
    try:
        described = parse_json(read_text(file, "the file"), str(file))
        return int(described.get("model_cfg", described)["embed_dim"])
    except (ConfigError, AttributeError, KeyError, TypeError, ValueError):  # reported when the teacher is opened
        return None
