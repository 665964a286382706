"""Initial weights of an encoder. They are read, unwrapped, and only loaded if all of them fit."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cliptea.errors import ConfigError
from cliptea.weights_source import WeightsSource

__all__ = ["download", "load_encoder", "read_state"]

State = dict[str, Tensor]
WRAPPERS = ("state_dict", "model")  # keys under which training programs store the weights


def read_state(source: WeightsSource, published: Callable[[str], State]) -> State:
    """Weights by name.

    Args:
        source: a file (.safetensors, .pth, .bin) or a tag.
        published: returns the weights of a tag.

    Raises:
        ConfigError: the file cannot be read, or the tag's weights cannot be downloaded.
        StorageError: the file is missing.
    """
    return _read(source.fetch(), source.text) if source.is_file else published(source.text)


def download(what: str, get: Callable[[], Any]) -> State:
    """Call `get` to download `what`. Failures become one line that explains what to do without internet access.

    Raises:
        ConfigError: the download failed.
    """
    try:
        return _unwrap(get(), what)
    except ConfigError:
        raise
    except Exception as error:  # clients raise many kinds of errors without network access
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"cannot download the weights {what}: {type(error).__name__}: {reason}",
            "access to the internet",
            "or download the file elsewhere and set student.pretrained to its path or s3:// URI",
        ) from error


def load_encoder(encoder: nn.Module, state: Mapping[str, Tensor], source: WeightsSource) -> None:
    """Load `state` into `encoder`, which it must fit key by key and shape by shape.

    Raises:
        ConfigError: it does not fit. The error names the first keys of each kind.
    """
    wanted = encoder.state_dict()
    problems = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "with another shape": [key for key in wanted if key in state and wanted[key].shape != state[key].shape],
    }
    said = [f"{len(keys)} {kind} ({', '.join(keys[:2])})" for kind, keys in problems.items() if keys]
    if said:
        raise ConfigError(
            f"the weights {source} do not fit the encoder: {', '.join(said)}", "weights for this student.backbone"
        )
    encoder.load_state_dict(dict(state))


def _read(file: Path, source: str) -> State:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return _unwrap(torch.load(file, map_location="cpu", weights_only=True), source)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(
            f"cannot read the weights {source}: {reason}", "a .safetensors file, or a .pth or .bin file of tensors only"
        ) from error


def _unwrap(content: Any, source: str) -> State:
    while isinstance(content, Mapping):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ConfigError(f"the weights {source} do not contain a state dict", "tensors by name")
    return dict(content)
