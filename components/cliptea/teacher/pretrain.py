"""The demo's CLIP: a tiny open_clip model that is trained on scenes and captions with their class names.

It replaces weights that a new machine may not have, and is loaded by the same code as ViT-B/16. Like the real CLIP, it
only learns from names. Labels are only used to write captions, and never as targets for pixels.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import resize_pos_embed
from PIL import Image
from safetensors.torch import save

from cliptea import progress
from cliptea.config import PretrainConfig, WorldConfig
from cliptea.data.world import CLASSES, PROMPTS, World, caption
from cliptea.errors import NotFinite
from cliptea.finite import require_finite
from cliptea.storage.local_files import write_file
from cliptea.teacher.width import DEMO_WIDTH

__all__ = ["CHECKPOINT", "CONFIG", "WEIGHTS", "model_config", "pretrain"]

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
CHECKPOINT = "pretraining.ckpt"  # with a suffix that open_clip does not use for weights
CHECKPOINT_EVERY = 50
DIGEST = 32  # bytes of a sha256
STORED = ("settings", "done", "phase", "weights", "optimiser")  # attributes of a training in its checkpoint

CLOSE = 0.75  # a close-up shows one class on at least this fraction of the image
NAMED = 0.06  # the caption contains classes that cover more than this fraction of the image
WARMUP = 20  # iterations
BATCH_STREAM, WEIGHT_STREAM = 11, 12  # first numbers of the random streams


def model_config(size: int) -> dict[str, Any]:
    """open_clip's description of the demo's CLIP for square images of `size` pixels."""
    return {
        "embed_dim": DEMO_WIDTH,
        "vision_cfg": {"image_size": size, "layers": 3, "width": 96, "head_width": 32, "patch_size": 4},
        "text_cfg": {"context_length": 40, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
    }


@dataclass(frozen=True)
class Phase:
    """A number of iterations on images of one size."""

    size: int
    iterations: int
    batch: int
    lr: float
    cover: float  # smallest part of an image that its largest class covers


def pretrain(folder: Path, world: WorldConfig, config: PretrainConfig, seed: int) -> None:
    """Train the demo's CLIP, or resume a killed call. The resulting weights are identical bit by bit.

    The checkpoint stays. If the caller is killed before it has used the weights, they are made from it again, because
    it has a hash and they have none.

    Args:
        folder: output in open_clip's local-dir layout: open_clip_config.json and, written last,
            open_clip_model.safetensors.
        seed: seed of the world, the weights and the order of the data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    phases = (
        Phase(world.size // 4, config.detail_iterations, config.detail_batch, config.lr, CLOSE),
        Phase(world.size // 2, config.crop_iterations, config.crop_batch, config.lr, NAMED),
        Phase(world.size, config.scene_iterations, config.scene_batch, config.lr / 2, NAMED),
    )
    settings = {"world": world.model_dump(), "config": config.model_dump(), "seed": seed}
    training = _Training(folder / CHECKPOINT, json.dumps(settings, sort_keys=True), seed)
    total = sum(phase.iterations for phase in phases)
    pool = _Pool(World(world, seed), config.scenes if training.done < total else 0)
    with progress.bar("pre-training the demo teacher", total=total, unit="it", done=training.done) as bar:
        start = 0
        for number, phase in enumerate(phases):
            if training.done < start + phase.iterations:
                training.run(number, phase, start, pool, bar)
            start += phase.iterations
    write_file(folder / CONFIG, json.dumps(_folder_config(world.size), indent=2).encode())
    model = _build(world.size, seed)
    model.load_state_dict(training.weights)
    _narrow(model, config.cone)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_file(folder / WEIGHTS, save(weights, metadata={"format": "pt"}))


class _Training:
    """The state that continues over iterations, phases and processes, and its file."""

    def __init__(self, checkpoint: Path, settings: str, seed: int) -> None:
        self.checkpoint, self.settings, self.seed = checkpoint, settings, seed
        self.done, self.phase = 0, -1  # iterations, and the phase of the last one
        self.weights: dict[str, torch.Tensor] = {}
        self.optimiser: dict[str, Any] = {}
        if checkpoint.is_file():
            state = _read(checkpoint)
            if state.get("settings") == settings:
                vars(self).update(state)

    def run(self, number: int, phase: Phase, start: int, pool: _Pool, bar: progress.Bar) -> None:
        """Run the remaining iterations of a phase. `start` is the number of its first iteration."""
        model = _build(phase.size, self.seed)
        if self.weights:
            resize_pos_embed(self.weights, model)  # from the size of the phase before
            model.load_state_dict(self.weights)
        optimiser = torch.optim.AdamW(model.parameters(), lr=phase.lr, betas=(0.9, 0.98), weight_decay=0.05)
        if self.phase == number:
            optimiser.load_state_dict(self.optimiser)
        tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)
        model.train()
        stop = start + phase.iterations
        for iteration in range(self.done, stop):
            rng = np.random.default_rng([BATCH_STREAM, self.seed, iteration])
            images, names, captions = pool.batch(rng, phase)
            for group in optimiser.param_groups:
                group["lr"] = phase.lr * _schedule(iteration - start, phase.iterations)
            loss = _loss(model, images, tokenizer(captions), names)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=math.log(100))
            if not math.isfinite(loss.item()):
                raise NotFinite(
                    f"pre-training the demo teacher has diverged in iteration {iteration + 1}",
                    "a finite loss",
                    "lower teacher.pretrain.lr",
                )
            bar.update(1, loss=loss.item())
            if (iteration + 1) % CHECKPOINT_EVERY == 0 or iteration + 1 == stop:
                self.done, self.phase = iteration + 1, number
                self.weights, self.optimiser = model.state_dict(), optimiser.state_dict()
                require_finite(self.weights, "the demo teacher", "lower teacher.pretrain.lr")
                _write(self.checkpoint, {name: getattr(self, name) for name in STORED})


@torch.no_grad()
def _narrow(model: open_clip.CLIP, cone: float) -> None:
    """Add a constant to all text features, so that they lie in a narrow cone, as those of the real CLIP do.

    The mean cosine of two classes of VOC, COCO-Stuff or PASCAL Context is 0.77 to 0.83 for ViT-B/16, and about 0.1 for
    so short a training. Without the cone, the full method fails; docs/method.md has figures and an explanation. The
    constant hardly changes the order of names for an image. (Liang et al. 2022, arXiv 2203.02053, describe the cone.)

    Args:
        cone: length of the constant, relative to the mean length of the text features.
    """
    tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)
    text_ND = model.encode_text(tokenizer([PROMPTS[0].format(name) for name in CLASSES]))
    unused_D = torch.linalg.svd(text_ND)[2][-1]  # a direction in which the classes hardly differ
    unused_D *= unused_D[unused_D.abs().argmax()].sign()
    constant_D = cone * text_ND.norm(dim=1).mean() * unused_D
    bias, projection = model.get_parameter("ln_final.bias"), model.get_parameter("text_projection")
    bias += torch.linalg.lstsq(projection.T, constant_D[:, None]).solution[:, 0]


def _write(checkpoint: Path, state: dict[str, Any]) -> None:
    """Store a state after its hash, because torch does not notice changed bytes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_file(checkpoint, hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue())


def _read(checkpoint: Path) -> dict[str, Any]:
    """The state in a checkpoint. A damaged one is deleted, and {} is returned."""
    data = checkpoint.read_bytes()
    digest, data = data[:DIGEST], data[DIGEST:]
    if hashlib.sha256(data).digest() == digest:
        return torch.load(io.BytesIO(data), weights_only=True)
    progress.warn(f"the checkpoint {checkpoint} is damaged; the training of the demo teacher starts again")
    checkpoint.unlink()
    return {}


def _build(size: int, seed: int) -> open_clip.CLIP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.default_rng([WEIGHT_STREAM, seed]).integers(2**62)))
        return open_clip.CLIP(**model_config(size))


def _schedule(iteration: int, iterations: int) -> float:
    """Linear warm-up, followed by a cosine decay to 5 %."""
    warmup = min(WARMUP, max(1, iterations // 4))
    rise = min(1.0, (iteration + 1) / warmup)
    return rise * (0.525 + 0.475 * math.cos(math.pi * iteration / iterations))


def _loss(model: open_clip.CLIP, images: torch.Tensor, tokens: torch.Tensor, names: torch.Tensor) -> torch.Tensor:
    """CLIP's symmetric cross entropy, in which images with the same set of names are positives of each other.

    Treating every true caption as a positive was tried. More names were correct (87 % instead of 75 %), but the mean
    cosine of the texts rose from 0.1 to 0.5, and no student was better with it (few runs; cause not isolated).

    Args:
        images: (B, 3, size, size) float32, normalised.
        tokens: (B, context length) int64.
        names: (B, N) bool, classes that the caption names.
    """
    image = model.encode_image(images, normalize=True)
    text = model.encode_text(tokens, normalize=True)
    logits = model.logit_scale.exp() * image @ text.T
    same = (names[:, None] == names[None]).all(-1).float()
    target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class _Pool:
    """Teacher scenes, which are rendered once, and batches of their crops with captions."""

    def __init__(self, world: World, scenes: int) -> None:
        pairs = [world.scene("teacher", index) for index in range(scenes)]
        self.images = [Image.fromarray(image) for image, _ in pairs]
        self.labels = [labels for _, labels in pairs]
        self.size = world.config.size
        self.mean = np.array(open_clip.OPENAI_DATASET_MEAN, np.float32)
        self.std = np.array(open_clip.OPENAI_DATASET_STD, np.float32)

    def batch(self, rng: np.random.Generator, phase: Phase) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        """Images (batch, 3, size, size) float32, names (batch, N) bool, captions."""
        count, size = phase.batch, phase.size
        images = np.empty((count, size, size, 3), np.float32)
        names = np.zeros((count, len(CLASSES)), bool)
        for row in range(count):
            images[row], names[row] = self._crop(rng, size, phase.cover)
        captions = [caption([CLASSES[c] for c in np.flatnonzero(row)], rng) for row in names]
        images = np.ascontiguousarray(((images / 255 - self.mean) / self.std).transpose(0, 3, 1, 2))
        return torch.from_numpy(images), torch.from_numpy(names), captions

    def _crop(self, rng: np.random.Generator, size: int, cover: float) -> tuple[np.ndarray, np.ndarray]:
        """A crop (size, size, 3) float32, 0 to 255, and the classes to name in it, (N,) bool with at least one."""
        while True:  # until there is something to name
            index = int(rng.integers(len(self.images)))
            edge = min(self.size, round(size * rng.uniform(0.75, 1.33)))
            top, left = rng.integers(self.size - edge + 1, size=2)
            labels = self.labels[index][top : top + edge, left : left + edge]
            share = np.bincount(labels.ravel(), minlength=256)[: len(CLASSES)] / labels.size  # without 255
            if share.max() > cover:
                break
        cut = self.images[index].resize((size, size), Image.Resampling.BILINEAR, (left, top, left + edge, top + edge))
        image = np.asarray(cut, np.float32) * rng.uniform(0.8, 1.2)
        return np.clip(image[:, ::-1] if rng.random() < 0.5 else image, 0, 255), share > NAMED


def _folder_config(size: int) -> dict[str, Any]:
    preprocess = {
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    return {"model_cfg": model_config(size), "preprocess_cfg": preprocess}
