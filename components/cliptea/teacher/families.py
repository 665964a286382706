"""The networks of open_clip that can be the teacher, as far as their descriptions tell it. It does not import torch.

docs/models.md lists the families, with the dense tokens of each. The networks themselves are in `towers`.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cliptea.config import ClusteringConfig, TeacherConfig
from cliptea.errors import ConfigError, TeacherError
from cliptea.parse import parse_json, read_text

__all__ = ["described_teacher", "patch_size", "require_crop", "require_family", "require_teacher"]

FOLDER = "open_clip_config.json"  # in a folder of weights
# Vision transformers of timm: SigLIP, Perception Encoder, EVA-CLIP, MobileCLIP-B and its like, ViTamin.
TIMM = re.compile(r"vit_\w+_siglip_\w+|vit_pe_core_\w+|eva\w+_patch\w+|vit_\w+_mci_\w+|vit_\w+_clip_\w+|vitamin_\w+")
# Options of open_clip for blocks whose attention has another form than that of nn.MultiheadAttention.
OTHER_ATTENTION = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")
TOKENIZER = "transformers"  # the package that reads the tokenizers of Hugging Face
TOKENIZER_OPTIONS = ("clean", "language", "strip_sep_token")  # others go to transformers, and some of them run code


def described_teacher(config: TeacherConfig) -> dict[str, Any] | None:
    """open_clip's description of the teacher, or None if it is only known once the weights are read, or never.

    The demo's own CLIP has none.
    """
    source = config.source
    if source.kind == "demo" or (source.kind == "remote" and not Path(source.text).suffix):
        return None  # a folder in S3 has its own architecture
    file = Path(os.path.expanduser(source.text)) / FOLDER
    package = importlib.util.find_spec("open_clip")
    if not file.is_file() and package is not None and package.origin is not None:
        file = Path(package.origin).parent / "model_configs" / f"{config.model}.json"
    try:
        described = parse_json(read_text(file, "the file"), str(file))
        return dict(described.get("model_cfg", described))
    except (ConfigError, AttributeError, TypeError, ValueError):  # reported when the teacher is opened
        return None


def patch_size(described: dict[str, Any]) -> int:
    """Pixels along one side of a patch."""
    vision = _section(described, "vision_cfg")
    named = re.search(r"patch(\d+)", str(vision.get("timm_model_name", "")))
    size = int(named[1]) if named else vision.get("patch_size")
    size = size[0] if isinstance(size, list) and size else size  # height and width
    return size if isinstance(size, int) and size > 0 else 16


def require_teacher(config: TeacherConfig, clusterings: Iterable[ClusteringConfig]) -> None:
    """`require_family` for a teacher whose description is known before its weights are read.

    Raises:
        TeacherError: the network or a setting does not fit.
    """
    described = described_teacher(config)
    if described is not None:
        folder = os.path.isfile(Path(os.path.expanduser(config.source.text)) / FOLDER)  # false also for a too long name
        require_family(config.source.text if folder else config.model, described, clusterings)
        require_crop(config.crop, patch_size(described))


def require_crop(crop: int, patch: int) -> None:
    """Reject a crop that patches do not fill.

    Raises:
        ConfigError: they do not.
    """
    if crop % patch:
        raise ConfigError(
            f"teacher.crop={crop} is not a multiple of the teacher's patch size of {patch} pixels",
            f"such as {crop // patch * patch or patch}",
        )


def require_family(name: str, described: dict[str, Any], clusterings: Iterable[ClusteringConfig] = ()) -> None:
    """Reject networks that are no teacher, and settings that need what the network does not have.

    Args:
        name: for messages.
        described: open_clip's description of the network.
        clusterings: the settings of all variants.

    Raises:
        TeacherError: the network or a setting does not fit.
    """
    vision, text = _section(described, "vision_cfg"), _section(described, "text_cfg")
    if reason := _unsuitable(vision, described):
        raise TeacherError(
            f"{name} does not provide a global token and patch tokens in one space: {reason}",
            "a vision transformer that docs/models.md lists, such as ViT-B-16-quickgelu",
        )
    if "hf_model_name" in text:
        raise TeacherError(
            f"the text tower of {name} is {text['hf_model_name']} of Hugging Face, which is not supported",
            "a text tower of open_clip, such as that of ViT-B-16-quickgelu",
        )
    if strange := sorted(_section(text, "tokenizer_kwargs").keys() - {*TOKENIZER_OPTIONS}):
        raise TeacherError(
            f"{name} has the tokenizer_kwargs {', '.join(strange)}, which could make its tokenizer run code",
            f"only {', '.join(TOKENIZER_OPTIONS)}",
        )
    if text.get("hf_tokenizer_name") and importlib.util.find_spec(TOKENIZER) is None:
        raise TeacherError(
            f"{name} needs a tokenizer of Hugging Face, and the package {TOKENIZER} is not installed",
            todo=f"pip install {TOKENIZER} sentencepiece",
        )
    for clustering in clusterings:
        _require_inside(name, vision, clustering)


def _section(described: dict[str, Any], key: str) -> dict[str, Any]:
    """A part of a description, which may hold anything."""
    part = described.get(key)
    return part if isinstance(part, dict) else {}


def _unsuitable(vision: dict[str, Any], described: dict[str, Any]) -> str:
    trunk = vision.get("timm_model_name")
    if trunk:
        return "" if TIMM.fullmatch(str(trunk)) else f"its image tower is timm's {trunk}"
    if isinstance(vision.get("layers"), list):
        return "its image tower is a ResNet"
    if "multimodal_cfg" in described or vision.get("attentional_pool"):
        return "it is a CoCa, whose image tower has queries of its own"
    if vision.get("pool_type", "tok") not in ("tok", "avg"):
        return f"its image tower has pool_type={vision['pool_type']}"
    return ""


def _require_inside(name: str, vision: dict[str, Any], clustering: ClusteringConfig) -> None:
    """Check that the values, keys and region tokens of a clustering setting exist."""
    custom = vision.get("block_type") == "custom" or any(vision.get(option) for option in OTHER_ATTENTION)
    foreign = bool(vision.get("timm_model_name")) or custom
    if clustering.tokens != "dense" and foreign:
        raise TeacherError(
            f"method.clustering.tokens={clustering.tokens} does not apply to {name}, whose blocks are not open_clip's",
            "dense",
        )
    if clustering.region_tokens == "attention" and (foreign or vision.get("pool_type", "tok") != "tok"):
        raise TeacherError(
            f"method.clustering.region_tokens=attention does not apply to {name}, whose global token is not the CLS "
            "token of open_clip's own transformer",
            "none or crop",
        )
