"""The train step: one student, from stored tokens to a model in the store. CLIP is not loaded here."""

from __future__ import annotations

import io
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor

from cliptea import device, progress
from cliptea.config import Config
from cliptea.data.catalogue import Catalogue
from cliptea.errors import ConfigError
from cliptea.manifest import Manifest, find, fingerprint, publish, put_object
from cliptea.method.glm import TokenBank
from cliptea.method.vla import Adapter
from cliptea.models import build_student
from cliptea.storage import FileStore, open_store
from cliptea.teacher.cache import TeacherCache, clustering_key
from cliptea.training.batches import Batch, batches
from cliptea.training.optimiser import make_optimiser
from cliptea.training.step import method_losses

if TYPE_CHECKING:
    from cliptea.runs import Run, Variant

__all__ = ["Trainer", "train_fingerprint", "train_variant"]

VERSION = 1
KIND = "train"


@dataclass
class History:
    """What was measured: mean loss terms of each logging interval, and the time that training took."""

    curves: list[dict[str, float]] = field(default_factory=list)  # each with its iteration
    pending: list[dict[str, float]] = field(default_factory=list)  # iterations since the last entry
    seconds: float = 0.0

    def add(self, terms: dict[str, float]) -> None:
        self.pending.append(terms)

    def close_interval(self, iteration: int) -> None:
        means = {
            name: sum(terms[name] for terms in self.pending) / len(self.pending) for name in self.pending[0]
        }
        self.curves.append({"iteration": iteration, **means})
        self.pending = []


class Trainer:
    """Everything that changes while a student learns, and the step that changes it."""

    def __init__(self, config: Config, text_SD: Tensor, seed: int) -> None:
        torch.manual_seed(seed)
        method, dim = config.method, text_SD.shape[1]
        self.config, self.where = config, device.best()
        self.student = build_student(
            config.student.backbone, dim, config.student.dropout, config.student.pretrained
        ).to(self.where)
        self.adapter = Adapter(
            method.generator,
            dim,
            method.generator_layers,
            method.generator_heads,
            method.generator_ffn,
            method.generator_dropout,
        ).to(self.where)
        self.bank = TokenBank(method.bank_iterations)
        self.optimiser, self.schedule = make_optimiser(
            self.student, self.adapter, config.train, config.student.backbone
        )
        self.text_SD = text_SD.to(self.where)
        self.iteration = 0
        self.history = History()

    def step(self, batch: Batch) -> dict[str, float]:
        """One iteration; returns the loss terms."""
        batch = batch.to(self.where)
        self.student.train()
        self.adapter.train()
        amp = self.config.train.amp and self.where.type == "cuda"
        with torch.autocast(self.where.type, torch.bfloat16, enabled=amp):
            terms = method_losses(
                self.student, self.adapter, batch, self.text_SD, self.bank, self.config.method
            )
        self.optimiser.zero_grad(set_to_none=True)
        terms["total"].backward()
        self.bank.enqueue(batch.cls_BD, batch.image_ids_B)
        self.optimiser.step()
        self.schedule.step()
        self.iteration += 1
        names, values = list(terms), torch.stack([term.detach() for term in terms.values()]).tolist()
        return dict(zip(names, values, strict=True))

    def state(self) -> bytes:
        """Everything needed to go on, as tensors and plain values (read back with weights_only)."""
        buffer = io.BytesIO()
        torch.save(
            {
                "student": self.student.state_dict(),
                "adapter": self.adapter.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "schedule": self.schedule.state_dict(),
                "bank": self.bank.state_dict(),
                "iteration": self.iteration,
                "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state_all(),
                "history": [self.history.curves, self.history.pending, self.history.seconds],
            },
            buffer,
        )
        return buffer.getvalue()

    def restore(self, data: bytes) -> None:
        state = torch.load(io.BytesIO(data), map_location=self.where, weights_only=True)
        self.student.load_state_dict(state["student"])
        self.adapter.load_state_dict(state["adapter"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.bank.load_state_dict(state["bank"])
        self.iteration = state["iteration"]
        self.history = History(*state["history"])
        torch.set_rng_state(state["rng"].cpu())
        torch.cuda.set_rng_state_all([rng.cpu() for rng in state["cuda_rng"]])


def train_fingerprint(config: Config, seed: int, split: Manifest, teacher: TeacherCache) -> str:
    """Over everything that decides a student's weights; how data are loaded and checkpoints kept does not."""
    regions = (
        teacher.regions[clustering_key(config.method.clustering)].fingerprint if config.method.pseudo else ""
    )
    quiet = {"checkpoint_every", "workers", "processes"}
    return fingerprint(
        KIND,
        VERSION,
        student=config.student,
        train=config.train.model_dump(exclude=quiet),
        method=config.method,
        seed=seed,
        split=split.fingerprint,
        tokens=teacher.tokens.fingerprint,
        regions=regions,
    )


def train_variant(
    run: Run, variant: dict[str, Any], split: dict[str, Any], teacher: dict[str, Any]
) -> dict[str, Any]:
    """Train one variant, or go on from its last checkpoint; returns the manifest of the model."""
    from cliptea.runs import Variant
    from cliptea.tracking.runs import ChildRun

    chosen = Variant.model_validate(variant)
    config, store = chosen.config(run.config), open_store()
    images, cache = Manifest.model_validate(split), TeacherCache.model_validate(teacher)
    fp = train_fingerprint(config, chosen.seed, images, cache)
    done = find(store, KIND, fp)
    if done is not None:
        progress.reused()
        return done.model_dump()
    if config.train.processes > 1:
        raise ConfigError(f"train.processes={config.train.processes}", "1: training is by one process so far")

    device.prepare()
    trainer = Trainer(config, _seen_text(store, images, cache), chosen.seed)
    checkpoint = f"{KIND}/{fp}/checkpoint.pt"
    if store.size(checkpoint) is not None:
        trainer.restore(store.get(checkpoint))
        progress.note(f"going on from the checkpoint at iteration {trainer.iteration}")
    tracked = ChildRun.open(run, chosen)
    _loop(trainer, batches(config, images, cache, chosen.seed, trainer.iteration), store, checkpoint, tracked)
    manifest = _publish(store, trainer, fp, config, chosen)
    store.delete(checkpoint)
    return manifest.model_dump()


def _loop(trainer: Trainer, data: Any, store: FileStore, checkpoint: str, tracked: Any) -> None:
    train, history = trainer.config.train, trainer.history
    with progress.bar("training", total=train.iterations, unit="it", done=trainer.iteration) as bar:
        last = time.perf_counter()
        for batch in data:
            terms = trainer.step(batch)
            history.add(terms)
            now = time.perf_counter()
            history.seconds, last = history.seconds + now - last, now
            if trainer.iteration % train.log_every == 0 or trainer.iteration == train.iterations:
                history.close_interval(trainer.iteration)
            bar.update(1, loss=terms["total"])
            if trainer.iteration % train.checkpoint_every == 0 and trainer.iteration < train.iterations:
                store.put(checkpoint, trainer.state())
                tracked.log_curves(history.curves)
                last = time.perf_counter()
    tracked.log_curves(history.curves)


def _seen_text(store: FileStore, split: Manifest, teacher: TeacherCache) -> Tensor:
    return teacher.text(store)[Catalogue.model_validate(split.info["catalogue"]).seen_ids]


def _publish(store: FileStore, trainer: Trainer, fp: str, config: Config, variant: Variant) -> Manifest:
    weights = {name: tensor.cpu().contiguous() for name, tensor in trainer.student.state_dict().items()}
    history = json.dumps(trainer.history.curves).encode()
    seconds = trainer.history.seconds
    info = {
        "backbone": config.student.backbone,
        "dim": trainer.text_SD.shape[1],
        "seed": variant.seed,
        "iterations": config.train.iterations,
        "seconds": seconds,
        "images_per_second": config.train.iterations * config.train.batch_size / seconds,
        "parameters": sum(p.numel() for p in trainer.student.parameters()),
    }
    objects = {
        "model.safetensors": put_object(
            store, f"{KIND}/{fp}/model.safetensors", safetensors.torch.save(weights)
        ),
        "history.json": put_object(store, f"{KIND}/{fp}/history.json", history),
    }
    return publish(store, Manifest(kind=KIND, fingerprint=fp, objects=objects, info=info))
