"""The trained models whose weights students start from (`train.init_from`).

A name such as models:/NAME@champion may mean another model tomorrow. So the resolve step reads the model and puts its
weights into the store, and the fingerprint of a student depends on the weights and not on their name.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError, deserialize

from cliptea.addresses import MODELS
from cliptea.config import Config
from cliptea.data.catalogue import as_text
from cliptea.errors import ConfigError, NotFinite, StorageError, one_line, refuse_system
from cliptea.manifest import Contents, Manifest, Output, find, fingerprint, make_once, put_object, read_object
from cliptea.names import visible
from cliptea.run import Run
from cliptea.segment.model_files import WEIGHTS, read_model
from cliptea.storage import Store, fetch, is_remote
from cliptea.teacher.width import teacher_width

if TYPE_CHECKING:
    from cliptea.training.initial_state import InitialState

__all__ = ["Initial", "check_address", "initial_state", "put_initial", "read_initial"]

REGISTRY = re.compile(r"(models|runs):/")


class Initial(NamedTuple):
    """A model as resolve has read it."""

    manifest: Manifest  # without its objects
    weights: bytes


def check_address(config: Config) -> None:
    """Check the address of the model, if there is one, without a network.

    Raises:
        ConfigError: it is not the address of a version, or a local folder does not exist.
    """
    given = config.train.init_from
    if given is None or is_remote(given):
        return
    if REGISTRY.match(given):
        if re.fullmatch(r"models:/[^/@]+", given):
            raise ConfigError(
                f"train.init_from={given} does not name a version", f"{given}@champion or {given}/VERSION"
            )
    elif not os.path.isdir(os.path.expanduser(given)):
        raise ConfigError(f"train.init_from={given}: this folder does not exist", MODELS)


def read_initial(configs: Iterable[Config], unseen: Collection[str]) -> dict[str, Initial]:
    """The models in `train.init_from` of all students, by its value. Nothing is stored.

    Args:
        unseen: names of the run's unseen classes, of which no model may have had masks.

    Raises:
        ConfigError: an address names no version. Or a model has another backbone or width than its student, was
            trained with masks of a class that is unseen now, or is a transductive model for an inductive student.
        NotFinite: a weight is NaN or infinite.
        StorageError: it does not exist, is damaged, or is no model.
    """
    found: dict[str, Initial] = {}
    for config in configs:
        given = config.train.init_from
        if given is not None:
            check_address(config)
            found[given] = found.get(given) or _read(given)
            _require_fit(given, found[given].manifest.info, config, unseen)
    return found


def put_initial(store: Store, models: Mapping[str, Initial]) -> None:
    """Put the weights of models into the store, unless they are there."""
    for manifest, weights in models.values():
        output = manifest.output

        def put(output: Output = output, weights: bytes = weights, manifest: Manifest = manifest) -> Contents:
            return Contents({WEIGHTS: put_object(store, f"{output.prefix}/{WEIGHTS}", weights)}, manifest.info)

        make_once(store, output, put)


def initial_state(store: Store, run: Run, config: Config) -> InitialState | None:
    """The weights that a student starts from, or None.

    Raises:
        StorageError: they are not in the store, or are damaged.
    """
    given = config.train.init_from
    if given is None:
        return None
    import safetensors.torch

    from cliptea.training.initial_state import InitialState

    output = run.initial[given].output
    manifest = find(store, output)
    if manifest is None:
        raise StorageError(
            f"the weights of train.init_from={given} are no longer in {store.uri(output.prefix)}",
            "the object that the resolve step has written",
            "run the pipeline again",
        )
    weights = safetensors.torch.load(read_object(store, manifest.objects[WEIGHTS]))
    return InitialState(given, int(manifest.info["dim"]), weights)


def _read(given: str) -> Initial:
    try:
        with _fetched(given) as folder:
            description, files = read_model(folder)
        if bad := _not_finite(files[WEIGHTS]):
            raise NotFinite(
                f"{bad} of the model in train.init_from={given} holds NaN or infinity",
                "finite weights",
                "train it again",
            )
    except (OSError, ValueError, SafetensorError) as error:
        refuse_system(error, f"cannot read train.init_from={given}")
        raise StorageError(
            f"train.init_from={given} does not hold a cliptea model ({one_line(error)[:200]})", MODELS
        ) from None
    info = {
        "backbone": description.backbone,
        "dim": description.dim,
        "licence": description.licence,
        "setting": description.setting,
        "seen": description.had_masks,
    }
    digest = hashlib.sha256(files[WEIGHTS]).hexdigest()
    fp = fingerprint("initial", weights=digest, **info)
    return Initial(Manifest(kind="initial", fingerprint=fp, info=info), files[WEIGHTS])


def _fetched(given: str) -> AbstractContextManager[Path]:
    """The folder of a model, which exists during the block."""
    if REGISTRY.match(given):
        from cliptea.tracking.model import fetch_model

        return fetch_model(given)
    return nullcontext(fetch(given))


def _require_fit(given: str, info: Mapping[str, Any], config: Config, unseen: Collection[str]) -> None:
    backbone, width = config.student.backbone, teacher_width(config.teacher)
    if info["setting"] == "transductive" and not config.method.transductive.names:
        raise ConfigError(
            f"train.init_from={given} is a model whose training knew the names of unseen classes",
            "an inductive model, because the student would count as inductive",
            "use another model, or set method.transductive.names=true",
        )
    now = {as_text(name) for name in unseen}
    if known := [visible(name) for name in info["seen"] if as_text(name) in now]:
        raise ConfigError(
            f"train.init_from={given} was trained with masks of {', '.join(known[:5])}, and "
            f"{'this class is' if len(known) == 1 else 'these classes are'} unseen in this run",
            "a model that has had no masks of unseen classes",
            "use another model, or change data.unseen",
        )
    if info["backbone"] != backbone:
        raise ConfigError(
            f"train.init_from={given} has the backbone {info['backbone']}, but the student has {backbone}",
            "a model with the backbone of the student",
            "use another model, or choose a variant with this backbone",
        )
    if width is not None and info["dim"] != width:
        raise ConfigError(
            f"train.init_from={given} has {info['dim']} features, and the teacher has {width}",
            "a model that was trained with a teacher of the same width",
        )


def _not_finite(weights: bytes) -> str:
    """The name of the first tensor of a safetensors file with NaN or infinity as float32, or "". It needs no torch."""
    import numpy as np

    for name, tensor in deserialize(weights):
        kind, data = tensor["dtype"], tensor["data"]
        if kind == "BF16":  # which NumPy lacks: all bits of the exponent are set
            bad = ((np.frombuffer(data, "<u2") & 0x7F80) == 0x7F80).any()
        elif kind in ("F16", "F32", "F64"):
            with np.errstate(over="ignore"):  # float64 may become infinite
                numbers = np.frombuffer(data, f"<f{int(kind[1:]) // 8}").astype(np.float32, copy=False)
            bad = not np.isfinite(numbers).all()
        else:
            continue
        if bad:
            return name
    return ""
