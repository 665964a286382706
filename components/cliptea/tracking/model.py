"""A trained student as a model that MLflow loads anywhere: with a copy of our code, and without a pickle.

What it takes is a tensor, since MLflow's signatures check shape and type of one, and its scoring server takes it as
JSON: images of one size a call. Files and images of many sizes are the affair of `cliptea predict`.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from cliptea.errors import StorageError

__all__ = ["fetch_model", "save_model"]

PACKAGE = Path(__file__).parents[1]
SCRIPT = Path(__file__).with_name("pyfunc.py")
# What `cliptea.segment.segmenter` imports; a test holds this list against the modules that it loads.
CODE = (
    "__init__.py", "config.py", "data/__init__.py", "data/catalogue.py", "data/views.py", "device.py", "env.py",
    "errors.py", "models/*.py", "segment/__init__.py", "segment/enlarge.py", "segment/inference.py", "segment/masks.py",
    "segment/normalise.py", "segment/segmenter.py", "weights_source.py",
)  # fmt: skip
NEEDED = (
    "mlflow", "numpy", "pillow", "pydantic", "safetensors", "segmentation_models_pytorch", "timm", "torch",
    "torchvision",
)  # fmt: skip
EXAMPLE_EDGE = 32  # pixels; the example is stored as text


def save_model(target: Path, student: Path, classes: Sequence[str], unseen: Sequence[str]) -> None:
    """Write the folder of a pyfunc model.

    Args:
        target: folder to make.
        student: folder with model.json, model.safetensors and text.safetensors.
        classes, unseen: names, for the model's metadata.
    """
    import numpy as np

    with warnings.catch_warnings(action="ignore", category=UserWarning):  # MLflow's about its own classes
        import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    # Without names: MLflow hands named tensors over in a dict, and takes no plain array for them.
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
        script = Path(shutil.copy(SCRIPT, folder))  # MLflow writes down where it lay
        mlflow.pyfunc.save_model(
            target,
            python_model=str(script),
            artifacts={"student": str(student)},
            code_paths=[str(code)],
            signature=signature,
            input_example=ramp.reshape(1, EXAMPLE_EDGE, EXAMPLE_EDGE, 3).astype(np.uint8),
            pip_requirements=_requirements(),
            metadata={"classes": list(classes), "unseen": list(unseen)},
        )


@contextmanager
def fetch_model(uri: str) -> Iterator[Path]:
    """The folder of a model in MLflow, for as long as the block lasts.

    Args:
        uri: models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID/model.

    Raises:
        StorageError: MLflow cannot be reached, or has no such model.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    from cliptea.tracking.mlflow_client import connect

    client = connect()
    with TemporaryDirectory() as folder:
        try:
            yield Path(download_artifacts(artifact_uri=uri, dst_path=folder, tracking_uri=client.tracking_uri))
        except (MlflowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise StorageError(
                f"the model {uri} does not exist at {client.tracking_uri} ({reason})",
                "models:/NAME@champion, models:/NAME/VERSION, runs:/ID/model or a folder",
            ) from None


def _requirements() -> list[str]:
    # Without the local part ("+cpu"), which no package index has.
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in NEEDED]
