"""The check of all settings before any work starts: by `cliptea run`, and again by the resolve step.

It does not import kfp, which takes seconds.
"""

from __future__ import annotations

from cliptea.config import Config
from cliptea.data.catalogue import Catalogue, names_of
from cliptea.errors import ConfigError
from cliptea.models.backbones import licence, require
from cliptea.run import expand
from cliptea.steps.initial import check_address
from cliptea.teacher.families import require_teacher

__all__ = ["check"]


def check(config: Config) -> Catalogue:
    """Check that the settings fit the data set and the registries, before any work starts.

    Raises:
        ConfigError, DataError, TeacherError: the settings, the data set or the teacher are not suitable.
    """
    from cliptea.data.datasets import open_dataset

    variants = expand(config)
    for variant in variants:
        student = variant.config.student
        require(student.backbone)
        licence(student.backbone, variant.config.encoder_weights)  # raises ConfigError for weights that do not exist
        check_address(variant.config)
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
    return catalogue
