"""Trains one student from stored tokens, and puts the model into the store. CLIP is not loaded here."""

import hashlib
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from kfp import dsl
from pydantic import BaseModel

from cliptea import progress
from cliptea.config import Config
from cliptea.data.catalogue import Catalogue
from cliptea.errors import named
from cliptea.manifest import Manifest, Output, find, fingerprint
from cliptea.models.backbones import weights
from cliptea.own_code import backbone_is_code, source_of
from cliptea.run import Run, Variant
from cliptea.sealed import seal
from cliptea.steps.common import read
from cliptea.steps.component import step
from cliptea.steps.initial import initial_state
from cliptea.steps.split import Splits
from cliptea.steps.teacher import TeacherCache
from cliptea.storage import Store, open_store
from cliptea.teacher.outputs import clustering_key
from cliptea.training.follower import Follower

if TYPE_CHECKING:
    from cliptea.training.batches import TrainingData
    from cliptea.training.loss_terms import TextFeatures

__all__ = ["TRAIN_PROCESS", "TrainInputs", "iterations_per_epoch", "model_output", "train", "train_variant"]

TRAIN_PROCESS = "cliptea.steps.train_process"  # the module that training processes run


@step()
def train(
    run: dsl.Input[dsl.Artifact],
    shards: dsl.Input[dsl.Artifact],
    cache: dsl.Input[dsl.Artifact],
    variant: str,
    model: dsl.Output[dsl.Artifact],
):
    from cliptea.steps.common import run_step, write
    from cliptea.steps.train import TrainInputs, train_variant

    def work(present):
        write(model, train_variant(TrainInputs.read(present, variant, shards, cache)))

    run_step("train", work, run=run, label=variant)


class TrainInputs(BaseModel):
    """The inputs of all training processes, and the step that follows the training if it runs in another pod."""

    run: Run
    variant: Variant
    splits: Splits
    teacher: TeacherCache
    follower: Follower | None = None

    @classmethod
    def read(cls, run: Run, label: str, shards: dsl.Artifact, cache: dsl.Artifact) -> "TrainInputs":
        """The inputs for the variant with this label, from the artifacts of the split and teacher steps."""
        splits, teacher = read(shards, Splits), read(cache, TeacherCache)
        return cls(run=run, variant=run.variant(label), splits=splits, teacher=teacher)

    @property
    def key(self) -> str:
        """The key of the inputs in the store. Runs with the same settings share a model but not the inputs."""
        digest = hashlib.sha256(f"{self.run.job_id}\0{self.variant.label}".encode()).hexdigest()[:10]
        return f"{model_output(self).prefix}/inputs-{digest}.json"


def train_variant(inputs: TrainInputs, joined: bool = False) -> Manifest:
    """Train one variant, from its last checkpoint if one exists. Returns the manifest of the model.

    Training runs in this process, or in `train.processes` child processes.

    Args:
        joined: this is one of the training processes that torchrun has started. The environment does not tell, as
            torchrun's variables may be left over from something else.
    """
    store, output = open_store(), model_output(inputs)
    done = None if joined else find(store, output)  # processes that are joined decide together
    if done is not None:
        progress.reused()
        return done
    if joined or inputs.variant.config.train.processes == 1:
        return _train_here(store, output, inputs, joined)
    from cliptea.training.torchrun import start

    key = inputs.key
    store.put(key, seal(inputs))
    start(TRAIN_PROCESS, key, inputs.variant.config.train.processes)
    store.delete(key)
    done = find(store, output)
    assert done is not None, "training succeeded but left no model"
    return done


def _train_here(store: Store, output: Output, inputs: TrainInputs, joined: bool) -> Manifest:
    from cliptea.tracking.curves import curve_log
    from cliptea.training.distributed import ALONE, join
    from cliptea.training.loop import train_student

    config, seed = inputs.variant.config, inputs.variant.seed
    epoch = iterations_per_epoch(config, inputs.splits.own)
    with named(inputs.variant.label), join() if joined else nullcontext(ALONE) as world:
        made = world.agree(find(store, output) if joined and world.is_first else None)
        if made is not None:  # by another run or pod while these processes started
            return made
        curves = curve_log(inputs.run, inputs.variant, epoch) if world.is_first else nullcontext(lambda curves: None)
        with curves as log:
            data, text = training_data(store, config, inputs.splits, inputs.teacher)
            initial = initial_state(store, inputs.run, config)
            return train_student(store, output, config, seed, data, text, log, world, initial)


def training_data(
    store: Store, config: Config, splits: Splits, teacher: TeacherCache
) -> "tuple[TrainingData, TextFeatures]":
    """The training data, and the text features of the seen classes.

    Training only reads those of unseen classes in the transductive setting. With validation, some images are held out.

    Raises:
        ConfigError: there are too few images to hold out some of them.
    """
    from cliptea.data.held_out import held_out_images
    from cliptea.data.shards import ShardReader
    from cliptea.teacher.text import load_seen_text, load_text
    from cliptea.training.batches import TrainingData, mean_region_token
    from cliptea.training.loss_terms import TextFeatures

    catalogue, method = Catalogue.model_validate(splits.own.info["catalogue"]), config.method
    images = ShardReader(store, splits.own.objects, "train")
    held_out = []
    if number := config.train.held_out_of(len(images)):
        held_out = held_out_images(images.names, number, config.data.seed)
    regions = mean_D = None
    if method.pseudo:
        regions = ShardReader(store, teacher.regions[clustering_key(method.clustering)].objects, "regions")
    data = TrainingData(
        images=images,
        cls=ShardReader(store, teacher.tokens.objects, "cls"),
        regions=regions,
        grid=tuple(teacher.tokens.info["grid"]),
        seen_ids=catalogue.seen_ids,
        held_out=held_out,
    )
    if regions is not None and method.describes_regions:
        views = config.teacher.views
        trained = [int(image) * views + view for image in data.trained for view in range(views)]
        mean_D = mean_region_token(regions, trained)
        data = data._replace(region_mean_D=mean_D)
    text, unseen_UD = teacher.text[config.data.name], None
    if method.transductive.names:
        unseen_UD = load_text(store, text)[catalogue.unseen_ids]
    return data, TextFeatures(load_seen_text(store, text), unseen_UD, mean_D)


def iterations_per_epoch(config: Config, split: Manifest) -> float:
    """The number of iterations in which each image that is trained on is shown once on average."""
    images = split.info["counts"]["train"]["images"]
    return (images - config.train.held_out_of(images)) / config.train.batch_size


def model_output(inputs: TrainInputs) -> Output:
    """The output for all inputs and settings that determine the student's weights.

    Settings for data loading and checkpoints are excluded. So are the number of processes, memory layout and
    compilation, because they only change the rounding (see `trainer` for exceptions). Evaluation settings count if
    training validates with them, and the module of a network of the user's own with every change.
    """
    config, teacher = inputs.variant.config, inputs.teacher
    given = config.train.init_from
    start: dict[str, Any] = {} if given is None else {"initial": inputs.run.initial[given].fingerprint}
    regions = teacher.regions[clustering_key(config.method.clustering)].fingerprint if config.method.pseudo else ""
    quiet = {"init_from", "checkpoint_every", "keep_checkpoints", "workers", "processes", "compile", "channels_last"}
    if backbone_is_code(config.student.backbone):
        start["code"] = hashlib.sha256(source_of(config.student.backbone)).hexdigest()
    if config.train.validate_every:
        start["validation"] = config.evaluation.model_dump(include={"scale", "divisor", "mode", "window", "stride"})
    fp = fingerprint(
        "train",
        student=config.student.model_dump(include={"backbone", "dropout"}),
        initial_weights=_initial_weights(config),
        train=config.train.model_dump(exclude=quiet | config.train.unused),
        method=config.method,
        seed=inputs.variant.seed,
        split=inputs.splits.own.fingerprint,
        tokens=teacher.tokens.fingerprint,
        text=teacher.text[config.data.name].fingerprint,
        regions=regions,
        **start,
    )
    return Output("train", fp)


def _initial_weights(config: Config) -> list[str | int]:
    """A description that changes with the initial weights of training. Empty for random weights."""
    source = weights(config.student.backbone, config.encoder_weights)
    if source is None:
        return []
    return source.state() if source.is_file else [source.text]
