"""The training loop: batches, steps, checkpoints, and the finished model's manifest."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import safetensors.torch
from torch import Tensor

from cliptea import device, progress
from cliptea.config import Config
from cliptea.data.catalogue import Catalogue
from cliptea.manifest import Manifest, publish, put_object
from cliptea.storage import Store
from cliptea.teacher.cache import TeacherCache
from cliptea.teacher.tokens import load_text
from cliptea.training.batches import batches
from cliptea.training.trainer import Trainer

__all__ = ["seen_text", "train_student"]

Curves = list[dict[str, float]]


def train_student(
    store: Store,
    prefix: str,
    config: Config,
    seed: int,
    split: Manifest,
    teacher: TeacherCache,
    log_curves: Callable[[Curves], None],
) -> Manifest:
    """Train to the end, from the checkpoint under `prefix` if there is one; returns the model's manifest.

    Args:
        store: where checkpoint and model go.
        prefix: KIND/FINGERPRINT of the model.
        config: the variant's settings.
        seed: of initial weights, order, augmentation and dropout.
        split: manifest of the shards.
        teacher: manifests of tokens and region maps.
        log_curves: told all loss curves so far, at each checkpoint and at the end.
    """
    device.prepare()
    trainer = Trainer(config, seen_text(store, split, teacher, config.data.dataset), seed)
    checkpoint = f"{prefix}/checkpoint.pt"
    if store.size(checkpoint) is not None:
        trainer.restore(store.get(checkpoint))
        progress.note(f"going on from the checkpoint at iteration {trainer.iteration}")
    train, history = config.train, trainer.history
    with progress.bar("training", total=train.iterations, unit="it", done=trainer.iteration) as bar:
        last = time.perf_counter()
        for batch in batches(config, split, teacher, seed, trainer.iteration):
            terms = trainer.step(batch)
            history.add(terms)
            now = time.perf_counter()
            history.seconds, last = history.seconds + now - last, now
            if trainer.iteration % train.log_every == 0 or trainer.iteration == train.iterations:
                history.close_interval(trainer.iteration)
            bar.update(1, loss=terms["total"])
            if trainer.iteration % train.checkpoint_every == 0 and trainer.iteration < train.iterations:
                store.put(checkpoint, trainer.state())
                log_curves(history.curves)
                last = time.perf_counter()
    log_curves(history.curves)
    manifest = _publish(store, prefix, trainer, seed)
    store.delete(checkpoint)
    return manifest


def seen_text(store: Store, split: Manifest, teacher: TeacherCache, dataset: str) -> Tensor:
    """(S, D) text features of the seen classes: the only ones that training is given."""
    text_ND = load_text(store, teacher.text[dataset])
    return text_ND[Catalogue.model_validate(split.info["catalogue"]).seen_ids]


def _publish(store: Store, prefix: str, trainer: Trainer, seed: int) -> Manifest:
    train, seconds = trainer.config.train, trainer.history.seconds
    weights = {name: tensor.cpu().contiguous() for name, tensor in trainer.student.state_dict().items()}
    info = {
        "backbone": trainer.config.student.backbone,
        "dim": trainer.text_SD.shape[1],
        "seed": seed,
        "iterations": train.iterations,
        "seconds": seconds,
        "images_per_second": train.iterations * train.batch_size / seconds,
        "parameters": sum(p.numel() for p in trainer.student.parameters()),
    }
    history = json.dumps(trainer.history.curves).encode()
    objects = {
        "model.safetensors": put_object(store, f"{prefix}/model.safetensors", safetensors.torch.save(weights)),
        "history.json": put_object(store, f"{prefix}/history.json", history),
    }
    kind, _, fp = prefix.partition("/")
    return publish(store, Manifest(kind=kind, fingerprint=fp, objects=objects, info=info))
