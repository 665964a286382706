"""The training loop: batches, steps, checkpoints, and the manifest of the trained model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import safetensors.torch
import torch

from cliptea import device, progress
from cliptea.config import Config
from cliptea.errors import ConfigError
from cliptea.manifest import Contents, Manifest, Output, find, publish, put_immutable
from cliptea.models.backbones import require
from cliptea.storage import Store
from cliptea.training.batches import Batch, TrainingData, batches
from cliptea.training.checkpoint import Checkpoints
from cliptea.training.distributed import ALONE, World
from cliptea.training.history import Curves
from cliptea.training.initial_state import InitialState
from cliptea.training.loss_terms import TextFeatures
from cliptea.training.stopping import Stopped, sigterm
from cliptea.training.trainer import Trainer
from cliptea.training.validation import Validation

__all__ = ["train_student"]


def train_student(
    store: Store,
    output: Output,
    config: Config,
    seed: int,
    data: TrainingData,
    text: TextFeatures,
    log_curves: Callable[[Curves], None],
    world: World = ALONE,
    initial: InitialState | None = None,
) -> Manifest:
    """Train to the end, from the last checkpoint if one exists. Returns the manifest of the model.

    With `train.validate_every`, the student is validated on held-out images, which may also end the training.

    Args:
        store: the store for checkpoints and model.
        output: the trained model as an output. Its folder in the store also holds the checkpoints.
        config: settings of the student, with the changes of its variant.
        data: photos with seen labels and the teacher's output for them, and which photos are held out.
        seed: seed of initial weights, order, augmentation and dropout.
        text: text features of the seen classes. Training only gets those of unseen classes in the transductive setting.
        log_curves: called with all loss curves so far, at each checkpoint and at the end, in the first process.
        world: the training processes. Each of them calls this function.
        initial: the weights that the student starts from.

    Raises:
        ConfigError: the processes cannot share a batch, or the initial weights do not fit.
        DataError: no held-out image shows a seen class.
        NotFinite: a loss, a gradient, a weight or a logit of a held-out image is NaN or infinite.
        Stopped: SIGTERM was received. A checkpoint is saved.
    """
    _require_shared(config, world)
    device.prepare()
    device.allow_tf32(config.train.tf32)
    trainer = Trainer(config, text, seed, world, initial)
    validation = Validation(trainer, data)
    if config.train.validate_every:
        validation.require_seen_class()
    with Checkpoints(store, f"{output.prefix}/checkpoints", config.train.keep_checkpoints, world) as checkpoints:
        state = checkpoints.last()
        if state is not None:
            trainer.restore(state)
            validation.best_weights = state.get("best_weights")
            progress.note(f"resuming from the checkpoint at iteration {trainer.iteration}")
        shown = batches(config, data, seed, trainer.iteration, world)
        _run(trainer, validation, shown, checkpoints, log_curves)
        trainer.state()  # which checks that everything is finite, in all processes
        manifest = None
        if world.is_first:
            log_curves(trainer.history.curves)
            manifest = _publish(store, output, trainer, validation)
            checkpoints.clear()
    return Manifest.model_validate(world.agree(manifest and manifest.model_dump()))


def _run(
    trainer: Trainer,
    validation: Validation,
    shown: Iterable[Batch],
    checkpoints: Checkpoints,
    log_curves: Callable[[Curves], None],
) -> None:
    """Train on the batches of `shown`, and validate. Checkpoints are saved regularly, and after SIGTERM."""
    train, world = trainer.config.train, trainer.world

    def state() -> dict[str, Any]:
        return trainer.state() | {"best_weights": validation.best_weights}

    with sigterm() as asked, progress.bar(progress.TRAINING, train.iterations, "it", trainer.iteration) as bar:

        def stopping() -> bool:
            return world.any(bool(asked))  # all processes stop after the same step, or before the same image

        for _ in _steps(trainer, validation, shown, bar):
            whole = validation.validate(stopping)
            if whole and (trainer.iteration == train.iterations or validation.is_hopeless):
                return
            if not whole or stopping():
                checkpoints.save_last(trainer.iteration, state())
                world.wait()  # a process that exits before the checkpoint is saved would look like a failure
                raise Stopped(trainer.iteration)
            if trainer.iteration % train.checkpoint_every == 0:
                checkpoints.save(trainer.iteration, state())
                if world.is_first:
                    log_curves(trainer.history.curves)


def _steps(trainer: Trainer, validation: Validation, shown: Iterable[Batch], bar: progress.Bar) -> Iterator[None]:
    """Make all steps, and yield after each. If the last checkpoint was saved within a validation, also yield first."""
    train, history = trainer.config.train, trainer.history
    if validation.is_due:
        yield
    for terms in history.measured(shown, trainer.step):
        if trainer.iteration % train.log_every == 0 or trainer.iteration == train.iterations or validation.is_due:
            history.close_interval(trainer.iteration)
        bar.update(1, loss=terms["total"])
        yield


def _require_shared(config: Config, world: World) -> None:
    train = config.train
    train.require_shared(world.size)
    if train.batch_size == world.size * train.accumulate and require(config.student.backbone).family == "upernet":
        raise ConfigError(
            f"the backbone {config.student.backbone} cannot train with one image at a time",
            "two or more images, because UPerNet has a batch norm over a map of one pixel",
            "raise train.batch_size, or lower the number of processes or train.accumulate",
        )


def _publish(store: Store, output: Output, trainer: Trainer, validation: Validation) -> Manifest:
    train, history = trainer.config.train, trainer.history
    kept = trainer.student.state_dict() if validation.best_weights is None else validation.best_weights
    weights = {name: tensor.cpu().contiguous() for name, tensor in kept.items()}
    info = {
        "backbone": trainer.config.student.backbone,
        "dim": trainer.text.seen_SD.shape[1],
        "seed": trainer.seed,
        "iterations": trainer.iteration,
        "processes": trainer.world.size,
        "parameters": sum(p.numel() for p in trainer.student.parameters()),
        **history.summary(trainer.iteration * train.batch_size),
    }
    if train.validate_every:
        info["validation"] = validation.summary()
        progress.note(validation.conclusion())
    if trainer.where.type == "cuda":
        info["peak_memory_bytes"] = torch.cuda.max_memory_allocated()  # of the first process, since its start
    curves = json.dumps(history.curves).encode()
    saved = safetensors.torch.save(weights)
    objects = {
        "model.safetensors": put_immutable(store, f"{output.prefix}/model", ".safetensors", saved),
        "history.json": put_immutable(store, f"{output.prefix}/history", ".json", curves),
    }
    # Another run may have trained the same student at the same time. Then the steps of that run already use its model.
    return find(store, output) or publish(store, output, Contents(objects, info))
