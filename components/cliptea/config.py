"""All settings: the only place with defaults.

A config is built as defaults <- preset (YAML delta) <- overrides ("a.b=c") <- variant (YAML delta), see
`cliptea.settings`. Defaults are the paper's values (arXiv 2310.02296), or established conventions where the paper gives
no value; docs/method.md lists them.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cliptea.addresses import PLACES, names_place
from cliptea.errors import ConfigError
from cliptea.messages import number_of
from cliptea.own_code import names_code
from cliptea.setting_types import NUMBER, WHOLE, Address, ModelAddress
from cliptea.weights_source import WeightsSource

__all__ = [
    "SERVED", "ClusteringConfig", "Config", "DataConfig", "EvaluationConfig", "EvaluationSet", "Group", "LossConfig",
    "MethodConfig", "PretrainConfig", "PromotionConfig", "StudentConfig", "Synonyms", "TeacherConfig", "Templates",
    "TrainConfig", "TransductiveConfig", "WorldConfig", "require_templates",
]  # fmt: skip

# Names of models and evaluation sets, as MLflow accepts them in its registry, in metrics and in paths of artifacts.
TRACKED = re.compile(r"[\w](?:[\w .-]{0,98}[\w-])?")
NAMES = "of at most 100 letters, digits, spaces and ._-, which begins with a letter or digit"

# Every number has bounds. They are far beyond useful values, and keep a typing error from running forever.
MOST = 10**9
Positive = Annotated[int, Field(ge=1, le=MOST), WHOLE]
Count = Annotated[int, Field(ge=0, le=MOST), WHOLE]
Few = Annotated[int, Field(ge=1, le=1024), WHOLE]
Pixels = Annotated[int, Field(ge=1, le=1 << 16), WHOLE]
Batch = Annotated[int, Field(ge=1, le=1 << 20), WHOLE]
Seed = Annotated[int, Field(ge=0, lt=1 << 32), WHOLE]
Fraction = Annotated[float, Field(ge=0, le=1), NUMBER]
Decay = Annotated[float, Field(ge=0, lt=1), NUMBER]  # of a moving average
Factor = Annotated[float, Field(gt=0, le=1e6), NUMBER]
Weight = Annotated[float, Field(ge=0, le=1e6), NUMBER]
Gamma = Annotated[float, Field(ge=-1e6, le=1e6), NUMBER]
Ratio = Annotated[float, Field(gt=0, le=100), NUMBER]
Size = tuple[Pixels, Pixels]
Unseen = Annotated[list[str], Field(max_length=254)]
Group = dict[str, dict[str, Any]]  # variants by name, each with the settings that it changes, and ABOUT
ABOUT = "about"  # describes a variant in one line
Templates = str | Annotated[list[str], Field(min_length=1, max_length=1000)]
# class -> the names whose text features are averaged, for a class that one name alone describes badly
Synonyms = dict[str, Annotated[list[str], Field(min_length=1, max_length=100)]]


VALIDATION = ("held_out", "keep", "patience")  # settings of `train` that need `train.validate_every`


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def require_templates(templates: Templates | None) -> None:
    """Reject prompts that are no templates; for the validator of a section, whose field is called `templates`."""
    if isinstance(templates, list):
        strange = next((template for template in templates if template.count("{}") != 1), None)
        if strange is not None:
            raise ValueError(
                f"templates has {strange!r}: expected exactly one {{}} in each, such as 'a photo of a {{}}.'"
            )
    elif templates not in ("single", "multi", None):
        raise ValueError(f"templates is {templates!r}: expected single, multi or a list such as ['a photo of a {{}}.']")


class WorldConfig(Section):
    """The demo world: rendered scenes and the images that its teacher learns from."""

    size: Annotated[int, Field(ge=32, le=4096, multiple_of=8), WHOLE] = 64  # height and width of a scene, pixels
    train_scenes: Positive = 800  # number of training images
    val_scenes: Positive = 200  # number of val images
    canvases: Few = 6  # textures per class, different ones for the teacher, the train and the val scenes


class DataConfig(Section):
    dataset: str = "demo"  # a name in cliptea.data.datasets, or your own package.module:Class
    root: str | None = None  # folder or s3:// prefix of the raw data; not used by the demo world
    train_list: Literal["train", "trainaug"] | None = None  # VOC: train omits the images of SBD; None: as in the paper
    seed: Seed = 0  # selects the views, and in the demo also the world
    unseen: Unseen | None = None  # class names; None: the default list of the data set
    synonyms: Synonyms = {}  # for the text features; a class that is not listed has its own name alone
    max_bad: Annotated[int, Field(ge=0, le=10_000), WHOLE] = 0  # images that are left out because they cannot be used
    shard_mib: Annotated[int, Field(ge=1, le=1 << 14), WHOLE] = 64  # a shard is closed when it reaches this size
    world: WorldConfig = WorldConfig()  # of the demo

    @property
    def name(self) -> str:
        """The name of the data set in results. It is that of the class for one of the user's own."""
        return self.dataset.rpartition(":")[2]


class PretrainConfig(Section):
    """Contrastive pre-training of the demo's small CLIP, only used with `teacher.weights=demo`."""

    detail_iterations: Positive = 300  # first on close-ups: crops a quarter of a scene wide, most of it a single class
    crop_iterations: Positive = 120  # then on crops half as wide as a scene
    scene_iterations: Count = 40  # and finally on whole scenes
    detail_batch: Batch = 128  # close-ups in an iteration
    crop_batch: Batch = 64  # larger crops in an iteration
    scene_batch: Batch = 24  # scenes in an iteration
    lr: Factor = 1.5e-3  # learning rate
    scenes: Positive = 3000  # number of rendered scenes, from which all crops are taken
    cone: Weight = 1.8  # length of a constant that is added to all text features, relative to their mean length


class TeacherConfig(Section):
    """CLIP and the views whose tokens are stored (arXiv 2310.02296, section 3.1)."""

    weights: Address | None = None  # "demo", a path, an s3:// URI, or an open_clip pre-training tag; required
    model: str = "ViT-B-16-quickgelu"  # open_clip architecture; a folder of weights has its own
    templates: Templates = "single"  # prompts: single, multi (see teacher.templates), or a list with {} for the name
    text_features: Address | None = None  # .npy file with the text features of the classes; None: use the text tower
    views: Annotated[int, Field(ge=1, le=10_000), WHOLE] = 1  # deterministic scale-and-crop views per training image
    base_scale: Size = (2048, 512)  # long and short edge that an image is fitted into before the ratio is applied
    ratio_range: tuple[Ratio, Ratio] = (0.5, 2.0)  # an image is scaled by a ratio between these
    crop: Pixels = 512  # height and width of a view, pixels; a multiple of the teacher's patch
    cat_max_ratio: Fraction = 0.75  # a crop is drawn again if one class covers this share of its labelled pixels
    batch_size: Batch = 16  # views that CLIP processes at once
    keep_dense: bool = True  # store dense tokens, so that new clustering settings do not need CLIP
    num_workers: Few = 1  # CLIP processes on one machine, which share its GPUs
    compile: bool = False  # compile CLIP's image tower with torch.compile
    pretrain: PretrainConfig = PretrainConfig()  # of the demo's CLIP

    @property
    def source(self) -> WeightsSource:
        """The kind and place of `weights`."""
        return WeightsSource.of(self.weights)

    @model_validator(mode="after")
    def _ordered(self) -> TeacherConfig:
        low, high = self.ratio_range
        if not 0 < low <= high:
            raise ValueError(f"ratio_range is {low}, {high}: expected 0 < low <= high")
        require_templates(self.templates)
        return self


class ClusteringConfig(Section):
    """Regions of unlabelled tokens (section 3.3, Algorithm 1). Each distinct setting has its own region maps."""

    # of CLIP's last block: its output as in the paper, its values (MaskCLIP), these without their mean, or its keys
    tokens: Literal["dense", "value", "value_centred", "key"] = "dense"
    partition: Literal["kmeans", "normalised_cut"] = "kmeans"  # normalised_cut is not in the paper
    seed_mode: Literal["sliding", "grid"] = "sliding"  # K-means starts from the means of these windows
    windows: Annotated[tuple[Few, ...], Field(max_length=16)] = (3, 7)  # sizes in tokens; grid: cells along an edge
    rounds: Few = 10  # of K-means, at most
    fusion_threshold: Fraction = 0.8  # lambda: clusters whose cosine reaches it are fused
    cut_sigma: Factor = 0.2  # the weight of two tokens is exp((cosine - 1) / sigma), times a factor for their distance
    cut_radius: Factor = 0.25  # how fast that factor falls with the distance, as a fraction of the side of the grid
    cut_threshold: Annotated[float, Field(ge=0, le=2), NUMBER] = 0.5  # a part is cut in two if its best cut costs less
    max_regions: Annotated[int, Field(ge=1, le=64), WHOLE] = 32  # of a view; the largest are kept
    # CLIP's embedding of each region, for the variants that need it: from pictures of the region, or from a CLS token
    # that attends to the region only
    region_tokens: Literal["none", "crop", "attention"] = "none"


class LossConfig(Section):
    """Terms of eq. 11 and 12 in the paper. The switches are the rows of Table 3."""

    cls_token: bool = True  # L_global
    ce: bool = True  # cross entropy
    bce: bool = True  # focal and dice
    generate: bool = True  # L_generate
    focal_weight: Weight = 100.0  # of the focal loss
    dice_weight: Weight = 1.0  # of the dice loss
    local: bool = False  # regions and CLIP's embeddings of them are contrasted; not in the paper
    # pixels without a class in focal and dice: left out, or negatives of every class
    nel_ignore: Literal["exclude", "negative"] = "exclude"
    size: Literal["image", "feature"] = "image"  # resolution at which the pixel losses are computed


class TransductiveConfig(Section):
    """Self-training with the names of unseen classes, which is another setting than that of the paper's results."""

    names: bool = False  # training knows the names of unseen classes, but no masks of them
    start: Fraction = 0.5  # part of the iterations after which regions are named
    ema_decay: Fraction = 0.99  # of the averaged student that names regions
    flips: bool = True  # a name must be the same for the image and its mirror image
    quantile: Fraction = 0.5  # a name is kept if its margin reaches this quantile of the last margins of its class

    @property
    def setting(self) -> Literal["inductive", "transductive"]:
        """What training knows of the unseen classes: nothing, or their names."""
        return "transductive" if self.names else "inductive"


class MethodConfig(Section):
    global_token: Literal["attention", "max", "mean"] = "attention"  # Table 4
    unit_query: bool = False  # eq. 1 with S/|S|
    temperature: Factor = 0.07  # of L_global and the local loss
    bank_iterations: Count = 24  # iterations whose CLS tokens are kept as further negatives of L_global
    bank_tokens: Count | None = None  # size of the bank in tokens instead of iterations
    pseudo: bool = True  # the Pixel Learning Module's pseudo classes
    pseudo_scope: Literal["image", "batch"] = "image"  # a pixel is compared with the regions of its image, or of all
    clustering: ClusteringConfig = ClusteringConfig()  # of the regions
    # Table 5; region is not in the paper: it starts from CLIP's embedding of each region
    generator: Literal["transformer_decoder", "mlp", "original", "region"] = "transformer_decoder"
    generator_layers: Few = 3  # number of layers
    generator_heads: Few = 8  # attention heads of each layer
    generator_ffn: Batch = 2048  # width of the hidden layer of its MLPs
    generator_dropout: Fraction = 0.1  # dropout in the layers of the generator
    detach_centroids: bool = False  # no gradients flow from the centroids of regions into the features
    pseudo_logit: Literal["dot", "cosine"] = "dot"  # product of features and pseudo classes, or 1/0.07 times the cosine
    feature_norm: Literal["none", "scaled_cosine"] = (
        "none"  # 1/0.07 times the cosine for all classes, also at test time
    )
    transductive: TransductiveConfig = TransductiveConfig()  # self-training with the names of unseen classes
    losses: LossConfig = LossConfig()  # the terms of the loss

    @property
    def describes_regions(self) -> bool:
        """Whether training reads CLIP's embeddings of regions."""
        return self.pseudo and (self.generator == "region" or self.losses.local or self.transductive.names)

    @model_validator(mode="after")
    def _described(self) -> MethodConfig:
        needs = {
            "generator=region": self.generator == "region",
            "losses.local=true": self.losses.local,
            "transductive.names=true": self.transductive.names,
        }
        needing = next((name for name, needed in needs.items() if needed), None)
        if needing and not (self.pseudo and self.clustering.region_tokens != "none"):
            raise ValueError(
                f"{needing} needs CLIP's embeddings of regions; "
                "expected clustering.region_tokens=crop or attention, and pseudo=true"
            )
        if self.losses.local and self.detach_centroids:
            raise ValueError("losses.local=true trains nothing with detach_centroids=true; expected one of them")
        terms = self.losses.model_dump(include={"cls_token", "ce", "bce", "generate", "local"})
        terms["bce"] = terms["bce"] and self.losses.focal_weight + self.losses.dice_weight > 0
        trained = [name for name, is_used in terms.items() if is_used]
        if not trained:
            raise ValueError("losses are all false or have no weight, so nothing is trained; expected one of them true")
        if trained == ["generate"] and self.detach_centroids:
            raise ValueError(
                "losses.generate=true alone does not train the student with detach_centroids=true; "
                "expected another loss as well, or detach_centroids=false"
            )
        if self.transductive.names and (self.pseudo_scope == "batch" or self.pseudo_logit == "cosine"):
            raise ValueError(
                "transductive.names=true needs one logit for each name; "
                "expected pseudo_scope=image and pseudo_logit=dot"
            )
        return self


class StudentConfig(Section):
    backbone: str = "segformer_b0"  # a name in cliptea.models, timm:NAME, or your own package.module:function
    # ImageNet weights: true, a timm tag, a file or s3://bucket/key; or a mapping from backbones to these
    pretrained: bool | Address | dict[str, bool | Address] = False
    dropout: Fraction = 0.1  # before the last 1x1 convolution

    @property
    def initial_weights(self) -> bool | str:
        """The value of `pretrained` for this backbone."""
        return self.pretrained.get(self.backbone, False) if isinstance(self.pretrained, dict) else self.pretrained


class TrainConfig(Section):
    """Training as in section 4.1 of the paper or, where it gives no details, as in MMSegmentation's schedules."""

    init_from: ModelAddress | None = None  # the trained model whose weights the student starts from, see docs/models.md
    iterations: Positive = 20000  # number of optimiser steps
    batch_size: Batch = 16  # in total over all processes
    processes: Few = 1  # on one machine; the placement sets those of a TrainJob
    accumulate: Batch = 1  # parts into which each process splits its images; see cliptea.training.trainer
    lr: Factor = 6e-5  # base learning rate, which the encoder has
    lr_scale: dict[str, Factor] = Field(default_factory=dict)  # backbone -> factor for lr
    betas: tuple[Decay, Decay] = (0.9, 0.999)  # of AdamW
    weight_decay: Weight = 0.01  # of AdamW; norms and biases of the student have none
    head_lr_factor: Factor | None = None  # None: the default of the backbone family
    generator_lr_factor: Factor | None = None  # of the pixel module's g; None: as the head
    warmup_iterations: Count = 1500  # limited to 5 % of the iterations
    clip_norm: Factor | None = None  # maximum gradient norm over all parameters
    sync_bn: bool | None = None  # synchronise batch norms over processes on GPUs; None: the default for the backbone
    photometric: bool = True  # change brightness, contrast, saturation and hue of the student's views
    flip: Fraction = 0.5  # probability that a view is mirrored for the student
    workers: Annotated[int, Field(ge=0, le=1024), WHOLE] = 2  # data loading processes per training process
    checkpoint_every: Positive = 1000  # iterations between two checkpoints
    keep_checkpoints: Positive = 2  # the newest ones, from which training resumes
    log_every: Positive = 50  # iterations between two points of the curves
    amp: bool = True  # bfloat16 autocast on GPUs
    tf32: bool = False  # use TF32 for float32 products on GPUs, including those in the losses
    channels_last: bool = False  # memory layout of images and features
    compile: bool = False  # compile the student with torch.compile
    # Validation on training images that are held out, with the masks of seen classes only; see docs/settings.md.
    validate_every: Count = 0  # iterations between two validations; 0: none, and no image is held out
    held_out: Annotated[float, Field(gt=0, lt=1), NUMBER] = 0.1  # share of the training images that are held out
    keep: Literal["last", "best"] = "last"  # the model is the student at the end, or the one with the best score
    patience: Positive | None = None  # stop after this many validations in a row without a new best score

    @property
    def unused(self) -> set[str]:
        """Settings that have no effect, and so are not part of any fingerprint."""
        return set() if self.validate_every else {"validate_every", *VALIDATION}

    @property
    def validations(self) -> int:
        """The largest number of validations. The last one is at the end of training."""
        return -(-self.iterations // self.validate_every) if self.validate_every else 0

    def held_out_of(self, images: int) -> int:
        """The number of held-out images among all training images. Some are left to train on."""
        return max(1, min(round(self.held_out * images), images - 1)) if self.validate_every else 0

    @model_validator(mode="after")
    def _shared(self) -> TrainConfig:
        self.require_shared(self.processes)
        return self

    @model_validator(mode="after")
    def _validated(self) -> TrainConfig:
        changed = [name for name in VALIDATION if getattr(self, name) != TrainConfig.model_fields[name].default]
        if changed and not self.validate_every:
            raise ValueError(
                f"{changed[0]}={getattr(self, changed[0])} has no effect without validation; "
                "expected validate_every=N as well, the iterations between two validations"
            )
        return self

    def require_shared(self, processes: int, named: str = "", setting: str = "train.processes") -> None:
        """Reject a batch size that the processes and `accumulate` cannot divide into equal parts.

        Args:
            processes: on all nodes.
            named: how the message names them; default: "N processes".
            setting: the setting that changes their number.

        Raises:
            ConfigError: it does not divide.
        """
        parts = processes * self.accumulate
        if self.batch_size % parts:
            shares = named or number_of(processes, "process")
            times = f" times train.accumulate={self.accumulate}" if self.accumulate > 1 else ""
            raise ConfigError(
                f"train.batch_size={self.batch_size} cannot be divided into {parts} equal parts ({shares}{times})",
                f"a multiple of {parts}",
                f"change train.batch_size, train.accumulate or {setting}",
            )


class EvaluationSet(Section):
    """A further data set for evaluation, with its own classes and split (as in Table 2 of the paper)."""

    root: str | None = None  # as data.root
    dataset: str | None = None  # None: its name in `evaluation.sets` is the name of the data set
    unseen: Unseen | None = None  # None: the default list of the data set
    synonyms: Synonyms = {}  # as data.synonyms, of its classes
    templates: Templates | None = None  # prompts; None: those of the teacher
    text_features: Address | None = None  # .npy file with the text features of its classes; None: use the text tower
    gamma: Gamma = 0.0  # a student trained on other data is not biased towards any of these classes

    @model_validator(mode="after")
    def _prompted(self) -> EvaluationSet:
        require_templates(self.templates)
        if self.synonyms and self.text_features:
            raise ValueError("synonyms and text_features are both set: expected one of them, as a class has one row")
        return self

    def data(self, name: str, base: DataConfig) -> DataConfig:
        """The data section for reading the set called `name`."""
        own = {"root": self.root, "unseen": self.unseen, "synonyms": self.synonyms}
        return base.model_copy(update={"dataset": self.dataset or name, **own})


SERVED = {"scale", "divisor", "mode", "window", "stride", "precision"}  # evaluation settings that a model is used with


class EvaluationConfig(Section):
    sets: dict[str, EvaluationSet] = {}  # by name, in addition to the val images of the data set itself
    gamma: Gamma = 1.5  # added to unseen logits (paper, section 3.4)
    gamma_no_cls_token: Gamma = 5.0  # the same for the row no_cls_token of Table 3, the only one that the paper names
    # Other values for the report, never used to choose.
    sweep: Annotated[list[Gamma], Field(max_length=1000)] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0]
    scale: Size = (2048, 512)  # long and short edge that a test image is fitted into
    divisor: Few = 32  # zero padding to a multiple of this
    mode: Literal["whole", "slide"] = "whole"  # the network sees the whole image, or sliding windows
    window: Pixels = 512  # of sliding windows, pixels
    stride: Pixels = 426  # between sliding windows, pixels
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of the network, with autocast
    batch_size: Batch | None = None  # images of one size that the network gets together; None: 1 on a CPU, 8 on a GPU
    workers: Few | None = None  # threads that work on images; None: one per core, at most 4 for each GPU
    figures: Annotated[int, Field(ge=0, le=1000), WHOLE] | list[str] = (
        6  # images in the report, as a number or as a list of names
    )

    @model_validator(mode="after")
    def _overlapping(self) -> EvaluationConfig:
        if self.stride > self.window:
            raise ValueError(f"stride is {self.stride} with windows of {self.window}: expected no gap between windows")
        return self

    def deciding(self) -> dict[str, Any]:
        """The settings that decide masks, as in JSON: those that a model is used with, and gamma."""
        windows = set() if self.mode == "slide" else {"window", "stride"}
        return self.model_dump(mode="json", include=(SERVED - windows) | {"gamma"})

    def counting(self, *left_out: str) -> dict[str, Any]:
        """The settings that fingerprints depend on, without `left_out` and those that are about speed alone.

        The precision only counts if it is not the usual one, so that earlier results stay valid.
        """
        quiet = {"batch_size", "workers"} | ({"precision"} if self.precision == "float32" else set())
        return self.model_dump(exclude={*left_out, *quiet})


class PromotionConfig(Section):
    margin: Fraction = 0.0  # a new champion must exceed the hIoU of the old one by more than this
    model: str | None = None  # name in the registry; None: cliptea-DATASET

    @model_validator(mode="after")
    def _accepted(self) -> PromotionConfig:
        if self.model is not None and not TRACKED.fullmatch(self.model):
            raise ValueError(f"model is {self.model!r}: expected a name that MLflow accepts, {NAMES}")
        return self


class Config(Section):
    """Everything that determines the result of a run."""

    preset: str = "demo"  # its name, or that of a file
    seeds: Few = 1  # how often each student is trained, each time with another seed
    variants: Annotated[list[str], Field(max_length=1000)] = [
        "backbones"
    ]  # groups or "group/name", from cliptea/variants or from variant_groups
    variant_groups: dict[str, Group] = {}  # of your own, by name
    data: DataConfig = DataConfig()  # what is learned from
    teacher: TeacherConfig = TeacherConfig()  # CLIP, its views and prompts
    method: MethodConfig = MethodConfig()  # the method, and its ablations
    student: StudentConfig = StudentConfig()  # the network
    train: TrainConfig = TrainConfig()  # how it is trained
    evaluation: EvaluationConfig = EvaluationConfig()  # how it is scored
    promotion: PromotionConfig = PromotionConfig()  # which model becomes the champion

    @property
    def roots(self) -> dict[str, str | None]:
        """The folder of each data set, by its setting. The demo has none, and code of the user's own may need none."""
        return {
            key: root
            for key, (dataset, root) in self._data_sets.items()
            if dataset != "demo" and not (names_code(dataset) and root is None)
        }

    @property
    def _data_sets(self) -> dict[str, tuple[str, str | None]]:
        """Data set and folder by the setting of the folder."""
        sets = {f"evaluation.sets.{name}": (s.dataset or name, s.root) for name, s in self.evaluation.sets.items()}
        return {f"{key}.root": both for key, both in {"data": (self.data.dataset, self.data.root), **sets}.items()}

    @property
    def registered_model(self) -> str:
        """The name of the run's best model in the registry."""
        setting = self.method.transductive.setting
        suffix = "" if setting == "inductive" else f"-{setting}"  # the two are never compared with each other
        return (self.promotion.model or f"cliptea-{self.data.name}") + suffix

    @property
    def encoder_weights(self) -> bool | str:
        """The value of `student.pretrained` for this backbone. It does not count if training starts from a model."""
        return False if self.train.init_from else self.student.initial_weights

    @model_validator(mode="after")
    def _readable_roots(self) -> Config:
        for key, (dataset, root) in self._data_sets.items():
            if root is not None and not names_place(root) and not names_code(dataset):  # which reads its root itself
                raise ValueError(f"{key}={root} is refused; expected {PLACES}")
        return self

    @model_validator(mode="after")
    def _distinct_sets(self) -> Config:
        if self.data.synonyms and self.teacher.text_features:
            raise ValueError(
                "data.synonyms and teacher.text_features are both set: expected one of them, as a class has one row"
            )
        strange = next((name for name in self.evaluation.sets if not TRACKED.fullmatch(name)), None)
        if strange is not None:
            raise ValueError(f"evaluation.sets has the name {strange!r}: expected a name that MLflow accepts, {NAMES}")
        if self.data.name in self.evaluation.sets:
            raise ValueError(
                f"evaluation.sets.{self.data.name} has the name of the data set itself; expected another name"
            )
        return self
