"""cliptea from Python: what the command line does, for notebooks and other programs.

Every function checks its input as its command does, and raises a `cliptea.errors.ClipteaError` with a message of one
line. Settings are given as a mapping such as {"train.iterations": 200}, with values of Python instead of texts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cliptea import env, settings
from cliptea.config import Config
from cliptea.errors import ClipteaError, ConfigError, StorageError, one_line
from cliptea.parse import read_text
from cliptea.storage.local_files import local_path
from cliptea_pipeline.extras import needing_extras
from cliptea_pipeline.options import choose_preset

if TYPE_CHECKING:
    import numpy as np

    from cliptea.evaluation.results import ResultRow
    from cliptea.plan import Plan
    from cliptea.segment.segmenter import Segmenter

__all__ = ["Model", "Segmentation", "load_config", "open_model", "plan", "read_results", "run", "submit"]

WORKDIR = ".cliptea"
LARGEST_RESULTS = 1 << 28  # bytes


class Segmentation(NamedTuple):
    """An image's mask and the names of its values."""

    mask: np.ndarray  # (H, W) uint8 positions in `classes`
    classes: list[str]


class Model:
    """A trained model, which segments images. Made by `open_model`."""

    def __init__(self, segmenter: Segmenter, workdir: Path) -> None:
        self._segmenter, self._workdir = segmenter, workdir

    @property
    def classes(self) -> list[str]:
        """The model's own classes."""
        return list(self._segmenter.description.classes)

    @property
    def unseen(self) -> list[str]:
        """Those of its classes that had no masks in training."""
        return list(self._segmenter.description.unseen)

    def segment(
        self, image: str | Path | np.ndarray, classes: Sequence[str] | None = None, text_weights: str | None = None
    ) -> Segmentation:
        """The mask of an image, as `cliptea predict` writes it.

        Args:
            image: a file, or (H, W, 3) uint8 RGB.
            classes: names of any classes; None: those of the model.
            text_weights: CLIP weights for names that are new to the model; None: those of its teacher.

        Raises:
            ConfigError: a name cannot be used, or the array is of another shape or type.
            DataError: the file is not an image.
            TeacherError: two names are the same to CLIP's text tower.
        """
        from cliptea.serving.classes import choose_classes
        from cliptea.serving.photos import read_image

        if isinstance(classes, str):
            raise ConfigError(f"classes is the text {classes!r}", "a list of names")
        pixels = read_image(Path(image)) if isinstance(image, (str, os.PathLike)) else _pixels(image)
        with needing_extras(), _variables(self._workdir):
            chosen = choose_classes(self._segmenter, classes, text_weights)
        return Segmentation(self._segmenter.mask(pixels, chosen), chosen.names)


def open_model(model: str | Path, workdir: str | Path = WORKDIR, allow_code: bool = False) -> Model:
    """Open a trained model.

    Args:
        model: models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/model or a folder.
        workdir: of the run that trained it. If MLFLOW_TRACKING_URI is set, models come from that server instead.
        allow_code: whether the model's network may be a function of the user's own, which is imported and called.

    Raises:
        ConfigError: the address is invalid.
        StorageError: there is no such model, or it is damaged.
    """
    from cliptea_pipeline.opening import open_model as opened

    home = local_path("workdir", str(workdir))
    with needing_extras(), _variables(home):
        return Model(opened(str(model), home, allow_code), home)


def load_config(
    preset: str | None = None, overrides: Mapping[str, Any] | None = None, file: str | Path | None = None
) -> Config:
    """All settings of a run.

    Args:
        preset: its name; None: demo, or the file.
        file: a preset file of the user's own, as for --config: a path, or an s3:// address.

    Raises:
        ConfigError: the preset or a setting does not exist, or a value is refused.
        StorageError: a preset in S3 cannot be read.
    """
    chosen, text = _preset(preset, file)
    return settings.load(chosen, as_texts(overrides), text)


def plan(config: Config, throughput: Mapping[str, float] | None = None) -> Plan:
    """What a run with these settings costs and what is missing for it. No data are read.

    Args:
        throughput: measured images per second of one GPU, by backbone, and `teacher` for CLIP.

    Raises:
        ConfigError: a throughput is no positive number, or is of a backbone that the run does not train.
    """
    with needing_extras():
        from cliptea.plan import make_plan, read_rates

        rates = read_rates(None, [f"{name}={rate}" for name, rate in (throughput or {}).items()])
        made = make_plan(config, rates)
        made.require_used(rates)
        return made


def run(
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    workdir: str | Path = WORKDIR,
    file: str | Path | None = None,
) -> list[ResultRow]:
    """Run the whole pipeline on this machine, and return the scores of all students. Progress goes to the terminal.

    Args:
        preset, overrides, file: as for `load_config`.
        workdir: folder for everything that the run produces.

    Raises:
        ConfigError: a setting is refused; nothing was started.
        ClipteaError: a step failed, or the run was stopped. The messages of the steps were printed.
    """
    home = local_path("workdir", str(workdir))
    with needing_extras():
        from cliptea_pipeline import local

        chosen, text = _preset(preset, file)
        code = local.run(chosen, as_texts(overrides), home, text=text)
    if code != 0:
        raise ClipteaError(
            f"the run in {workdir} ended with the exit code {code}",
            "0",
            "see the messages above and the newest file in its folder logs; run again to resume",
        )
    return read_results(workdir)


def read_results(workdir: str | Path = WORKDIR) -> list[ResultRow]:
    """The scores of all students of the last run in a work directory.

    Raises:
        StorageError: there are none, or they are damaged.
    """
    from pydantic import TypeAdapter

    from cliptea.evaluation.results import ResultRow
    from cliptea.files import SUMS, sums
    from cliptea_pipeline.workdir import REPORTS

    root = local_path("workdir", str(workdir))
    file = root / "results.json"
    try:
        if not file.exists():
            raise StorageError(f"{file} does not exist", "the work directory of a finished run", "name it")
        data = read_text(file, "the file", LARGEST_RESULTS)
        # It leads to the folder of its run. A copy of the work directory may have a file in place of the link.
        kept = [file.resolve().parent / SUMS] if file.is_symlink() else sorted(root.glob(f"{REPORTS}/*/{SUMS}"))
        if not any(path.is_file() for path in kept):
            raise StorageError(f"{file} has no {SUMS}", "the results of a run of this version", "run again")
        if not any(sums({file.name: data}) in read_text(path, "the file") for path in kept):
            raise StorageError(f"{file} is damaged: it does not match its {SUMS}", "the results of a run", "run again")
        return TypeAdapter(list[ResultRow]).validate_json(data)
    except (OSError, ValueError, ConfigError) as error:
        raise StorageError(
            f"{file} cannot be read ({one_line(error)[:200]})", "the results of a run", "run again"
        ) from None


def submit(
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    pipeline: str | Path | None = None,
    endpoint: str | None = None,
    namespace: str | None = None,
    experiment: str = "cliptea",
    file: str | Path | None = None,
) -> str:
    """Start a run on a cluster, and return its id.

    Args:
        preset, overrides, file: as for `load_config`.
        pipeline: file that `cliptea compile` wrote; None: the one in the package.
        endpoint: address of Kubeflow Pipelines; None: KFP_ENDPOINT.
        namespace: of the steps; None: KFP_NAMESPACE.
        experiment: in Kubeflow Pipelines, made if it does not exist.

    Raises:
        ConfigError: the settings are refused or do not fit the pipeline; nothing was sent.
        ClipteaError: the server cannot be reached, or denies the request.
    """
    with needing_extras():
        from cliptea_pipeline import submit as submitting
        from cliptea_pipeline.endpoint import Endpoint

        compiled = None if pipeline is None else Path(pipeline)
        chosen, text = _preset(preset, file)
        given = submitting.parameters(chosen, as_texts(overrides), file=compiled, text=text)
        return submitting.submit(Endpoint(endpoint, namespace), given, experiment, compiled)


def as_texts(overrides: Mapping[str, Any] | None) -> list[str]:
    """Settings in the form of --set, "a.b=c", in which they also travel to a cluster."""
    return [f"{key}={_text(key, value)}" for key, value in (overrides or {}).items()]


def _preset(preset: str | None, file: str | Path | None) -> tuple[str, str]:
    return choose_preset(preset, None if file is None else str(file))


def _text(key: str, value: Any) -> str:
    if isinstance(value, (str, os.PathLike)):
        return os.fsdecode(value)
    if isinstance(value, float) and value.is_integer():  # as NumPy and spreadsheets have whole numbers
        value = int(value)
    try:
        return json.dumps(value, ensure_ascii=False, default=os.fspath)
    except (TypeError, ValueError):
        raise ConfigError(
            f"the setting {key} is given as {type(value).__name__}, or holds what no setting can hold",
            "a text, a number, True, False, None, a path, or a list or dict of these",
        ) from None


def _pixels(image: np.ndarray) -> np.ndarray:
    shape, kind = getattr(image, "shape", None), getattr(image, "dtype", None)
    if shape is None or len(shape) != 3 or shape[2] != 3 or 0 in shape or str(kind) != "uint8":
        raise ConfigError(
            f"the image is {type(image).__name__} with shape {shape} and type {kind}", "a file, or (H, W, 3) uint8 RGB"
        )
    return image


@contextmanager
def _variables(workdir: Path) -> Iterator[None]:
    """Undo what the block sets in the environment, so that a program can use several work directories."""
    names = (env.STORE.name, "MLFLOW_TRACKING_URI")
    before = {name: os.environ.get(name) for name in names}
    store = workdir.resolve() / "store"
    if store.is_dir():
        os.environ.setdefault(env.STORE.name, store.as_uri())
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
