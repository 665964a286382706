"""The extras of the package: what a command needs that an installation may lack."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from cliptea.errors import ClipteaError

__all__ = ["EXTRAS", "needing_extras", "require"]

# Module -> the extra in pyproject.toml that installs it.
EXTRAS = {
    "kfp": "cluster",
    "kubeflow_trainer_api": "cluster",
    "kubernetes": "cluster",
    "mlflow": "mlflow",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "openvino": "openvino",
}


def require(*modules: str) -> None:
    """Check that modules of extras are installed, without importing them.

    Raises:
        ClipteaError: one is not.
    """
    for module in modules:
        if find_spec(module) is None:
            raise _missing(module)


@contextmanager
def needing_extras() -> Iterator[None]:
    """Let a module of an extra that cannot be imported in the block be an error that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        raise _missing(module) from error


def _missing(module: str) -> ClipteaError:
    extra = EXTRAS[module]
    return ClipteaError(
        f"this needs the Python package {module}, which is not installed",
        f"cliptea with the extra {extra}",
        f"run pip install '.[{extra}]' in a checkout",
    )
