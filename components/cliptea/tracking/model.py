"""Trained students as MLflow models, which contain a copy of our code and no pickle, so MLflow can load them anywhere.

The input is a tensor, so that MLflow can check its shape and type, and its scoring server can read it from JSON. So all
images of a call have the same size. Use `cliptea predict` for files and for images of different sizes.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from cliptea.errors import TrackingError, described, one_line
from cliptea.messages import meaning

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["exact_version", "fetch_model", "save_model"]

PACKAGE = Path(__file__).parents[1]
SCRIPT = Path(__file__).with_name("pyfunc.py")
# The modules that `cliptea.segment.segmenter` imports, and `decode_image` for users of the model. A test compares this
# list with the loaded modules.
CODE = (
    "__init__.py", "addresses.py", "config.py", "data/__init__.py", "data/catalogue.py", "data/sample.py",
    "data/views.py", "device.py", "env.py", "errors.py", "files.py", "finite.py", "messages.py", "method/__init__.py",
    "method/losses.py", "method/precision.py", "models/*.py", "names.py", "own_code.py", "parse.py",
    "segment/__init__.py", "segment/image_logits.py", "segment/inference.py", "segment/masks.py",
    "segment/model_files.py", "segment/normalise.py", "segment/segmenter.py", "segment/training_features.py",
    "setting_types.py", "weights_source.py",
)  # fmt: skip
NEEDED = (
    "mlflow", "numpy", "pillow", "pydantic", "safetensors", "segmentation_models_pytorch", "timm", "torch",
    "torchvision",
)  # fmt: skip
EXAMPLE_EDGE = 32  # pixels; small, because the example is stored as text


def save_model(target: Path, student: Path, classes: Sequence[str], unseen: Sequence[str]) -> None:
    """Write the folder of a pyfunc model.

    Args:
        student: folder with the files of the model, see `cliptea.segment.model_files`.
        classes, unseen: class names for the model's metadata.
    """
    import numpy as np

    with warnings.catch_warnings(action="ignore", category=UserWarning):  # MLflow warns about its own classes
        import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    # The tensors have no names, because MLflow passes named tensors as a dict and rejects plain arrays for them.
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
        outputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1))]),
        params=ParamSchema([ParamSpec("classes", DataType.string, [], (-1,))]),
    )
    ramp = np.linspace(0, 255, EXAMPLE_EDGE * EXAMPLE_EDGE * 3)
    with TemporaryDirectory() as folder:
        code = Path(folder) / PACKAGE.name
        for pattern in CODE:
            for source in sorted(PACKAGE.glob(pattern)):
                copy = code / source.relative_to(PACKAGE)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)
        script = Path(shutil.copy(SCRIPT, folder))  # MLflow records the path of the script
        mlflow.pyfunc.save_model(
            target,
            python_model=str(script),
            artifacts={"student": student.as_uri()},
            code_paths=[str(code)],
            signature=signature,
            input_example=ramp.reshape(1, EXAMPLE_EDGE, EXAMPLE_EDGE, 3).astype(np.uint8),
            pip_requirements=_requirements(),
            metadata={"classes": list(classes), "unseen": list(unseen)},
        )


@contextmanager
def fetch_model(uri: str) -> Iterator[Path]:
    """Download a model from MLflow to a folder that exists during the block.

    Args:
        uri: models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID/model.

    Raises:
        TrackingError: MLflow or its artifacts cannot be reached, the model does not exist, or it cannot be stored here.
    """
    from mlflow.artifacts import download_artifacts

    from cliptea.tracking.mlflow_client import connect

    client = connect()
    with ExitStack() as kept:
        try:
            folder, place = kept.enter_context(TemporaryDirectory()), _artifacts(client, uri)
            path = Path(download_artifacts(artifact_uri=place, dst_path=folder, tracking_uri=client.tracking_uri))
        except Exception as error:  # MLflow does not wrap errors of the libraries for artifacts
            raise _missed(uri, client, error) from None
        yield path


def _artifacts(client: MlflowClient, uri: str) -> str:
    """The address of the files of a model in a run. For runs:/, MLflow's download hides why it has failed."""
    if not uri.startswith("runs:/"):
        return uri
    run, _, path = uri.removeprefix("runs:/").partition("/")
    return f"{client.get_run(run).info.artifact_uri}/{path}"


def exact_version(uri: str) -> str:
    """models:/NAME/VERSION of models:/NAME@ALIAS, which may name another version later.

    Raises:
        TrackingError: MLflow cannot be reached, or there is no such alias.
    """
    from cliptea.tracking.mlflow_client import connect

    client = connect()
    name, _, alias = uri.removeprefix("models:/").partition("@")
    try:
        return f"models:/{name}/{client.get_model_version_by_alias(name, alias).version}"
    except Exception as error:
        raise _missed(uri, client, error) from None


def _missed(uri: str, client: MlflowClient, error: Exception) -> TrackingError:
    """Why a model was not found or not downloaded."""
    from cliptea.tracking.mlflow_client import away

    error = _of_first_file(error)
    if isinstance(error, OSError) and meaning(error):
        return TrackingError(f"the model {uri} cannot be downloaded: {described(error)}")
    if _does_not_exist(error):
        return TrackingError(
            f"the model {uri} does not exist at {client.tracking_uri} ({one_line(error)[:200]})",
            "models:/NAME@champion, models:/NAME/VERSION, runs:/ID/model or a folder",
        )
    reason = away(error)
    if reason.temporary:
        return reason
    return TrackingError(
        f"the model {uri} cannot be downloaded from {client.tracking_uri} ({reason.reason})", todo=reason.todo
    )


def _of_first_file(error: Exception) -> Exception:
    """What has failed for the first file of a download. MLflow only keeps the texts of these errors."""
    from mlflow.exceptions import MlflowException

    found = re.search(r"##### File .* #####\n(?:\[Errno (\d+)\] .*?: '(.*)'|(.*))", str(error))
    if found is None:
        return error
    if found[1]:
        return OSError(int(found[1]), os.strerror(int(found[1])), found[2])
    return MlflowException(found[3])


def _does_not_exist(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException) and error.get_http_status_code() in (400, 404):
        return True
    return re.search("404 Client Error|^Not a proper|No such file|No such artifact", str(error)) is not None


def _requirements() -> list[str]:
    # Without the local version ("+cpu"), which is not on the package index.
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in NEEDED]
