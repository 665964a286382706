"""The frozen CLIP teacher, through open_clip, structure unchanged (arXiv 2310.02296 section 3.1).

Shape legend: B images, C crop (input size), D joint width, g tokens per side, K texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from cliptea import device
from cliptea.config import TeacherConfig
from cliptea.errors import ConfigError, TeacherError
from cliptea.parse import parse_json, read_text
from cliptea.teacher.clip_files import fill, find_checkpoint, is_openai, read_checkpoint
from cliptea.teacher.hub import download, tag_config
from cliptea.teacher.network import architecture, build_network
from cliptea.weights_source import WeightsSource

__all__ = ["Teacher", "load_teacher", "open_teacher"]


class Teacher(nn.Module):
    """CLS and dense tokens of images, and text features, in CLIP's joint space."""

    def __init__(self, model: nn.Module, tokenizer: Any, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.clip: Any
        self.mean: Tensor
        self.std: Tensor
        self.clip = model.eval().requires_grad_(False)
        self.clip.visual.output_tokens = True
        self.tokenizer = tokenizer
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    @property
    def dim(self) -> int:
        return self.clip.visual.proj.shape[1]

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens along height and width."""
        return self.clip.visual.grid_size

    @torch.no_grad()
    def tokens(self, images_B3CC: Tensor, valid_BCC: Tensor) -> tuple[Tensor, Tensor]:
        """CLS tokens (B, D) and dense tokens (B, D, g, g), both after ln_post and the projection, not normalised.

        Args:
            images_B3CC: uint8 RGB.
            valid_BCC: bool, False on padding, which is 0 after normalisation.
        """
        normal = (images_B3CC.float() / 255 - self.mean) / self.std * valid_BCC[:, None]
        visual = self.clip.visual
        cls_BD, tokens_BLE = visual(normal.to(visual.proj.dtype))
        dense_BLD = tokens_BLE @ visual.proj
        height, width = self.grid
        return cls_BD.float(), dense_BLD.float().transpose(1, 2).reshape(len(cls_BD), -1, height, width)

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        """Text features (K, D), unit norm, float32."""
        ids = self.tokenizer(texts).to(self.mean.device)
        return self.clip.encode_text(ids, normalize=True).float()


def load_teacher(weights: str, model: str, crop: int) -> Teacher:
    """Load CLIP in float32 for inputs of `crop` x `crop` pixels (position embedding resized).

    Args:
        weights: a folder in open_clip's local layout (architecture, preprocessing and weights), a file of weights of
            the architecture `model` (see `cliptea.teacher.clip_files`), each as a path, a file:// or an s3:// URI;
            or an open_clip pre-training tag of `model`.
        model: an open_clip architecture with a vision transformer; not used with a folder.

    Raises:
        TeacherError: the weights cannot be downloaded or read, do not fit the architecture, or the architecture does
            not provide suitable tokens.
        StorageError: the file or folder `weights` does not exist.
    """
    source = _find(weights, model)
    network = build_network(source.name, source.config, crop)
    state = read_checkpoint(source.path)
    if is_openai(state):
        _require_quick_gelu(source.name, source.config, weights)
    fill(network, state, source.path, source.name)
    return Teacher(network, open_clip.get_tokenizer(source.schema), source.mean, source.std)


def open_teacher(weights: str, config: TeacherConfig) -> Teacher:
    """The teacher for these settings, on the best device.

    Args:
        weights: weights for `load_teacher`. These are not always `config.weights`, which may be "demo".
    """
    teacher = load_teacher(weights, config.model, config.crop).to(device.best())
    if config.compile:
        teacher.clip.visual.compile()
    return teacher


@dataclass(frozen=True)
class _Source:
    """The location of weights, and the network that they belong to."""

    name: str  # for messages
    schema: str  # open_clip's name of the network
    config: dict[str, Any]
    path: Path
    mean: Sequence[float] = open_clip.OPENAI_DATASET_MEAN
    std: Sequence[float] = open_clip.OPENAI_DATASET_STD


def _find(weights: str, model: str) -> _Source:
    source = WeightsSource.of(weights)
    if source.is_file:
        path = source.fetch()
        return _folder(path) if path.is_dir() else _Source(model, model, architecture(model), path)
    config, tag = architecture(model), tag_config(model, weights)
    if tag.get("quick_gelu"):
        _require_quick_gelu(model, config, weights)
    return _Source(model, model, config, download(weights, tag), tag["mean"], tag["std"])


def _folder(path: Path) -> _Source:
    try:
        described = parse_json(read_text(path / "open_clip_config.json", "the file"), "open_clip_config.json")
        config, normal = described["model_cfg"], described.get("preprocess_cfg", {})
    except (ConfigError, KeyError, TypeError, AttributeError) as error:
        raise TeacherError(
            f"teacher.weights={path} is not an open_clip folder", "open_clip_config.json with model_cfg, and weights"
        ) from error
    source = _Source(str(path), f"local-dir:{path}", config, find_checkpoint(path))
    return replace(source, **{name: normal[name] for name in ("mean", "std") if name in normal})


def _require_quick_gelu(name: str, config: dict[str, Any], weights: str) -> None:
    """Check the activation function, because a network with another one would load the weights without an error."""
    if config.get("quick_gelu"):
        return
    better = f"{name}-quickgelu"
    raise TeacherError(
        f"the weights {weights} were trained with QuickGELU, but {name} uses GELU",
        todo=f"add --set teacher.model={better}"
        if better in open_clip.list_models()
        else 'set "quick_gelu": true in the model_cfg of its open_clip_config.json',
    )
