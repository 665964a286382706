"""Names of backbones outside the registry. They are checked without importing the networks."""

from __future__ import annotations

import difflib
import importlib.util
import re
from functools import cache
from pathlib import Path

from cliptea.errors import ConfigError

__all__ = ["TIMM_DEFAULT", "timm_encoder"]

TIMM_DEFAULT = "default"  # stands for the tag that timm uses by default

REGISTERED = re.compile(r"^@register_model\s*\ndef (\w+)\(", re.MULTILINE)


def timm_encoder(name: str) -> tuple[str, str]:
    """Encoder and tag of "timm:ENCODER.TAG" or "timm:ENCODER", which stands for timm's default tag.

    Raises:
        ConfigError: timm has no such encoder.
    """
    encoder, _, tag = name.removeprefix("timm:").partition(".")
    known = _timm_encoders()
    if encoder not in known:
        near = difflib.get_close_matches(encoder, known, n=3, cutoff=0.0)
        raise ConfigError(f"timm has no encoder {encoder!r}", f"an existing encoder, perhaps {', '.join(near)}")
    return encoder, tag or TIMM_DEFAULT


@cache
def _timm_encoders() -> tuple[str, ...]:
    """Encoder names from timm's source files. This takes 50 ms, while importing timm takes seconds."""
    package = importlib.util.find_spec("timm")
    if package is None or package.origin is None:
        raise ConfigError("timm is not installed", todo="install it, or choose another backbone")
    files = sorted((Path(package.origin).parent / "models").glob("*.py"))
    return tuple(name for file in files for name in REGISTERED.findall(file.read_text(encoding="utf-8")))
