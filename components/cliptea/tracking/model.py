"""Trained students as MLflow models, which contain a copy of our code and no pickle, so MLflow can load them anywhere.

The input is a tensor, so that MLflow can check its shape and type, and its scoring server can read it from JSON. So all
images of a call have the same size. Use `cliptea predict` for files and for images of different sizes.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from cliptea.errors import TrackingError, one_line

__all__ = ["fetch_model", "save_model"]

PACKAGE = Path(__file__).parents[1]
SCRIPT = Path(__file__).with_name("pyfunc.py")
# The modules that `cliptea.segment.segmenter` imports, and `decode_image` for users of the model. A test compares this
# list with the loaded modules.
CODE = (
    "__init__.py", "config.py", "data/__init__.py", "data/catalogue.py", "data/sample.py", "data/views.py", "device.py",
    "env.py", "errors.py", "files.py", "finite.py", "messages.py", "method/__init__.py", "method/losses.py",
    "method/precision.py", "models/*.py", "names.py", "own_code.py", "parse.py", "segment/__init__.py",
    "segment/image_logits.py", "segment/inference.py", "segment/masks.py", "segment/model_files.py",
    "segment/normalise.py", "segment/segmenter.py", "segment/training_features.py", "weights_source.py",
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
        TrackingError: MLflow cannot be reached, or the model does not exist.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    from cliptea.tracking.mlflow_client import connect

    client = connect()
    with TemporaryDirectory() as folder:
        try:
            yield Path(download_artifacts(artifact_uri=uri, dst_path=folder, tracking_uri=client.tracking_uri))
        except (MlflowException, OSError) as error:
            raise TrackingError(
                f"the model {uri} does not exist at {client.tracking_uri} ({one_line(error)[:200]})",
                "models:/NAME@champion, models:/NAME/VERSION, runs:/ID/model or a folder",
            ) from None


def exact_version(uri: str) -> str:
    """models:/NAME/VERSION of models:/NAME@ALIAS, which may name another version later.

    Raises:
        TrackingError: MLflow cannot be reached, or there is no such alias.
    """
    from mlflow.exceptions import MlflowException

    from cliptea.tracking.mlflow_client import connect

    client = connect()
    name, _, alias = uri.removeprefix("models:/").partition("@")
    try:
        return f"models:/{name}/{client.get_model_version_by_alias(name, alias).version}"
    except MlflowException as error:
        raise TrackingError(
            f"the model {uri} does not exist at {client.tracking_uri} ({one_line(error)[:200]})",
            "models:/NAME@champion, models:/NAME/VERSION, runs:/ID/model or a folder",
        ) from None


def _requirements() -> list[str]:
    # Without the local version ("+cpu"), which is not on the package index.
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in NEEDED]
