"""The check of all settings before any work starts: by `cliptea run`, and again by the resolve step.

It does not import kfp, which takes seconds.
"""

from __future__ import annotations

from math import gcd

from cliptea.config import Config, MethodConfig
from cliptea.data.catalogue import IGNORE, Catalogue, names_of
from cliptea.errors import ConfigError
from cliptea.models.backbones import licence, require
from cliptea.run import expand
from cliptea.steps.initial import check_address
from cliptea.teacher.families import require_teacher
from cliptea.teacher.width import teacher_width

__all__ = ["check"]


def check(config: Config) -> Catalogue:
    """Check that the settings fit the data set and the registries, before any work starts.

    Returns:
        The classes of `config.data`, and which of them are unseen.

    Raises:
        ConfigError, DataError, TeacherError: the settings, the data set or the teacher are not suitable.
    """
    from cliptea.data.datasets import open_dataset

    variants = expand(config)
    for variant in variants:
        require(variant.config.student.backbone)
        _check_by_backbone(variant.config)
        licence(variant.config.student.backbone, variant.config.encoder_weights)  # raises ConfigError if there are none
        check_address(variant.config)
        _check_generator(variant.config)
    if config.teacher.source.missing:  # before the data are split; hubs and buckets are only contacted later
        raise ConfigError(
            f"teacher.weights={config.teacher.weights} does not exist",
            "CLIP weights, a pre-training tag such as openai, or demo",
        )
    methods = [variant.config.method for variant in variants]
    require_teacher(config.teacher, [method.clustering for method in methods if method.pseudo])
    for name, further in config.evaluation.sets.items():
        other = open_dataset(further.data(name, config.data)).catalogue
        names_of(other.classes, further.synonyms, f"evaluation.sets.{name}.synonyms")
    catalogue = open_dataset(config.data).catalogue
    names_of(catalogue.classes, config.data.synonyms)
    for method in methods:
        _check_regions(method, len(catalogue.seen))
    return catalogue


def _check_by_backbone(config: Config) -> None:
    """Check the settings that have a value for each backbone."""
    pretrained, backbone = config.student.pretrained, config.student.backbone
    weights = pretrained if isinstance(pretrained, dict) else {}
    for key, names in (("student.pretrained", weights), ("train.lr_scale", config.train.lr_scale)):
        for name in names:
            try:
                require(name)
            except ConfigError as error:
                raise ConfigError(f"{key}.{name} is refused: {error.what}", error.expected, error.todo) from None
    if weights and backbone not in weights and require(backbone).tag and not config.train.init_from:
        raise ConfigError(
            f"student.pretrained names weights for {', '.join(weights)}, and none for {backbone}",
            f"student.pretrained.{backbone}: true, false, or a file",
        )


def _check_generator(config: Config) -> None:
    method, width = config.method, teacher_width(config.teacher)
    if method.generator in ("transformer_decoder", "region") and width and width % method.generator_heads:
        raise ConfigError(
            f"method.generator_heads={method.generator_heads} does not divide the {width} features of CLIP's tokens",
            f"a divisor of {width}, such as {gcd(width, 8)}",
        )


def _check_regions(method: MethodConfig, seen: int) -> None:
    """Check that label maps, whose values are bytes, have room for the regions of an image."""
    room = IGNORE - seen
    if method.pseudo and method.clustering.max_regions > room:
        raise ConfigError(
            f"{seen} seen classes and method.clustering.max_regions={method.clustering.max_regions} are too many for "
            f"label maps with {IGNORE} values",
            f"at most {room} regions",
            f"add --set method.clustering.max_regions={room}",
        )
