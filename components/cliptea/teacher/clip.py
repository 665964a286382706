"""The frozen CLIP teacher, through open_clip, structure unchanged (arXiv 2310.02296 section 3.1).

Shape legend: B images, C crop (input size), D joint width, g tokens per side, K texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cliptea import device, progress
from cliptea.config import TeacherConfig
from cliptea.errors import ClipteaError, ConfigError, TeacherError, refuse_system
from cliptea.files import PIPE, oddity
from cliptea.hub_cache import cached
from cliptea.parse import parse_json, read_text
from cliptea.teacher.clip_files import fill, find_checkpoint, is_openai, read_checkpoint
from cliptea.teacher.hub import download, normalisations, tag_config
from cliptea.teacher.network import architecture, build_network, fit_positions
from cliptea.teacher.region_pictures import region_masks, region_pictures
from cliptea.teacher.towers import tower_of
from cliptea.weights_source import WeightsSource

__all__ = ["Encoded", "Teacher", "load_teacher", "open_teacher"]

TOKENIZER_FILES = "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "vocab.txt", "spiece.model"


class Encoded(NamedTuple):
    """The tokens of a batch."""

    cls_BD: Tensor  # float32
    tokens: dict[str, Tensor]  # (B, D, g, g) float32; keys have the width of the tower instead of D
    inputs: list[Tensor]  # of the last blocks


class Teacher(nn.Module):
    """CLS and dense tokens of images, and text features, in CLIP's joint space."""

    def __init__(self, model: nn.Module, tokenizer: Any, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.clip: Any
        self.mean: Tensor
        self.std: Tensor
        self.clip = model.eval().requires_grad_(False)
        self.tower = tower_of(self.clip.visual)
        self.tokenizer = tokenizer
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    @property
    def dim(self) -> int:
        return self.tower.dim

    @property
    def width(self) -> int:
        """Channels of keys."""
        return self.tower.width

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens along height and width."""
        return self.tower.grid

    def compile(self) -> None:
        """Compile the image tower with torch.compile."""
        self.tower.compile()

    @torch.no_grad()
    def tokens(self, images_B3CC: Tensor, valid_BCC: Tensor) -> tuple[Tensor, Tensor]:
        """Global tokens (B, D), such as CLS, and dense tokens (B, D, g, g), in the joint space and not normalised.

        Args:
            images_B3CC: uint8 RGB.
            valid_BCC: bool, False on padding, which is 0 after normalisation.
        """
        cls_BD, dense_BLD = self.tower.tokens(self._normal(images_B3CC, valid_BCC))
        return cls_BD.float(), self._as_grid(dense_BLD)

    @torch.no_grad()
    def encode(self, images_B3CC: Tensor, valid_BCC: Tensor, kinds: Sequence[str], blocks: int = 0) -> Encoded:
        """CLS tokens and other tokens from one forward pass; arguments as for `tokens`.

        Args:
            kinds: the tokens to return.
            blocks: number of last blocks whose inputs are returned, for `region_tokens`; fewer if the tower has no more
                than these.

        Raises:
            TeacherError: the tower's attention has another form, and something else than dense tokens is wanted.
        """
        if set(kinds) <= {"dense"} and not blocks:
            global_BD, dense_BDgg = self.tokens(images_B3CC, valid_BCC)
            return Encoded(global_BD, {"dense": dense_BDgg}, [])
        found = self.tower.encode(self._normal(images_B3CC, valid_BCC), kinds, blocks)
        tokens = {kind: self._as_grid(tokens_BLD) for kind, tokens_BLD in found.tokens.items()}
        return Encoded(found.global_BD.float(), tokens, found.inputs)

    @torch.no_grad()
    def region_tokens(self, inputs: Sequence[Tensor], regions_Bgg: Tensor) -> list[Tensor]:
        """An embedding (R, D) float32, unit norm, of the regions of each view, from the forward pass of the view.

        Args:
            inputs: of the last blocks, from `encode`.
            regions_Bgg: uint8, region maps of the views.
        """
        member_BRL = region_masks(regions_Bgg).flatten(2)
        token_BRD = F.normalize(self.tower.regions(inputs, member_BRL).float(), dim=2)
        counts = member_BRL.any(2).sum(1).tolist()
        return [token_RD[:count] for token_RD, count in zip(token_BRD, counts, strict=True)]

    @torch.no_grad()
    def picture_tokens(
        self, images_B3CC: Tensor, valid_BCC: Tensor, regions_Bgg: Tensor, batch_size: int
    ) -> list[Tensor]:
        """An embedding (R, D) float32, unit norm, of the regions of each view, from two pictures of each region.

        It is the mean of the unit CLS tokens of the view without the other pixels, and of the region's box.

        Args:
            regions_Bgg: uint8, region maps of the views.
            batch_size: pictures in one forward pass.
        """
        counts = region_masks(regions_Bgg).flatten(2).any(2).sum(1).tolist()
        pictures = region_pictures(images_B3CC, valid_BCC, regions_Bgg)
        unit_RD = [
            F.normalize(
                torch.cat(
                    [self.tokens(*part)[0] for part in zip(i.split(batch_size), v.split(batch_size), strict=True)]
                ),
                dim=1,
            )
            for i, v in (pictures[:2], pictures[2:])
            if len(i)
        ]
        if not unit_RD:
            return [torch.empty(0, self.dim, device=images_B3CC.device) for _ in counts]
        return list(F.normalize(unit_RD[0] + unit_RD[1], dim=1).split(counts))

    def _normal(self, images_B3CC: Tensor, valid_BCC: Tensor) -> Tensor:
        normal = (images_B3CC.float() / 255 - self.mean) / self.std * valid_BCC[:, None]
        return normal.to(self.clip.logit_scale.dtype)

    def _as_grid(self, tokens_BLD: Tensor) -> Tensor:
        height, width = self.grid
        return tokens_BLD.float().transpose(1, 2).reshape(len(tokens_BLD), -1, height, width)

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
    if source.doubtful and is_openai(state):
        source = replace(source, mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD, doubtful=False)
    fill(network, state, source.path, source.name)
    fit_positions(network, crop)
    if source.doubtful:
        mean = ", ".join(f"{value:.4g}" for value in source.mean)
        progress.warn(
            f"some published weights of {source.name} need another normalisation of images than the mean {mean}, which "
            f"is used for {weights}; if these do, put them into a folder with an open_clip_config.json"
        )
    return Teacher(network, _tokenizer(source), source.mean, source.std)


def open_teacher(weights: str, config: TeacherConfig) -> Teacher:
    """The teacher for these settings, on the best device.

    Args:
        weights: weights for `load_teacher`. These are not always `config.weights`, which may be "demo".
    """
    teacher = load_teacher(weights, config.model, config.crop).to(device.best())
    if config.compile:
        teacher.compile()
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
    doubtful: bool = False  # whether weights of this network may need another mean and std


def _find(weights: str, model: str) -> _Source:
    source = WeightsSource.of(weights)
    if source.is_file:
        path = source.fetch()
        if path.is_dir():
            return _folder(path)
        known = normalisations(model) or [(open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)]
        return _Source(model, model, architecture(model), path, *known[0], doubtful=len(known) > 1)
    config, tag = architecture(model), tag_config(model, weights)
    if tag.get("quick_gelu"):
        _require_quick_gelu(model, config, weights)
    return _Source(model, model, config, download(weights, tag), tag["mean"], tag["std"])


def _folder(path: Path) -> _Source:
    try:
        described = parse_json(read_text(path / "open_clip_config.json", "the file"), "open_clip_config.json")
        config, given = dict(described["model_cfg"]), dict(described.get("preprocess_cfg") or {})
        normal = {name: [float(value) for value in given[name]] for name in ("mean", "std") if name in given}
        if any(len(values) != 3 or not all(map(math.isfinite, values)) for values in normal.values()):
            raise ValueError("mean and std have three numbers each")
    except (ConfigError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise TeacherError(
            f"teacher.weights={path} is not an open_clip folder", "open_clip_config.json with model_cfg, and weights"
        ) from error
    if odd := [f"{file} is {what}" for file in path.iterdir() if (what := oddity(file)) in (PIPE, "a device")]:
        raise TeacherError(odd[0], "only files", "delete it")  # the tokenizer's library would wait for it
    source = _Source(str(path), f"local-dir:{path}", config, find_checkpoint(path))
    return replace(source, **normal)


def _tokenizer(source: _Source) -> Any:
    try:
        repository = source.config.get("text_cfg", {}).get("hf_tokenizer_name")
        if repository and not source.schema.startswith("local-dir:"):  # a folder has its own
            for name in TOKENIZER_FILES:
                cached(repository, name)  # a damaged one is deleted, and downloaded again
        return open_clip.get_tokenizer(source.schema)
    except ClipteaError:
        raise
    except Exception as error:  # Hugging Face's clients raise many kinds of errors without network access
        todo = "put weights, open_clip_config.json and the tokenizer into a folder, and set teacher.weights to it"
        refuse_system(error, f"cannot load the tokenizer of {source.name}", todo)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TeacherError(
            f"the tokenizer of {source.name} cannot be loaded ({reason})",
            "its files in the folder of the weights, or access to the internet",
            todo,
        ) from error


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
