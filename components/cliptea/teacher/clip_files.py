"""Files of CLIP weights: safetensors, pickled state dicts, and OpenAI's TorchScript archives.

Reading a file never runs code from it. Pickles are read with weights_only. A TorchScript archive is only loaded for its
tensors, and rejected if it contains a method that loading would call.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from math import isqrt
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from open_clip.model import resize_pos_embed
from torch import Tensor, nn

from cliptea.errors import TeacherError, one_line, refuse_system
from cliptea.files import is_bomb, oddity, sha256
from cliptea.finite import not_finite
from cliptea.models.encoder_weights import kinds_in, unwrapped
from cliptea.weights_source import WeightsSource

__all__ = ["fill", "find_checkpoint", "is_openai", "read_checkpoint", "weights_sha256"]

OPENAI_FACTS = ("input_resolution", "context_length", "vocab_size")  # numbers among the tensors of OpenAI's archives
POSITIONS = "visual.positional_embedding"
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")  # in the order of preference
EXPECTED = "safetensors, a pickled state dict, or OpenAI's TorchScript archive"


def find_checkpoint(folder: Path) -> Path:
    """The weights file in a folder with open_clip's layout. Its own names and safetensors are preferred.

    Raises:
        TeacherError: the folder contains no weights.
    """
    files = [file for file in sorted(folder.iterdir()) if file.suffix in SUFFIXES and not file.name.startswith(".")]
    if not files:
        raise TeacherError(f"teacher.weights={folder} holds no weights", f"a file *{' or *'.join(SUFFIXES)} in it")
    return min(files, key=lambda file: (not file.name.startswith("open_clip"), SUFFIXES.index(file.suffix)))


def weights_sha256(weights: str) -> str:
    """The sha256 of the file with CLIP's weights, which may lie in a folder. "" for a tag, whose copies are checked.

    Raises:
        TeacherError: the folder contains no weights, or it is no file.
        StorageError: the file or folder does not exist, or the system cannot read it.
    """
    source = WeightsSource.of(weights)
    if not source.is_file:
        return ""
    path = source.fetch()
    path = find_checkpoint(path) if path.is_dir() else path
    try:
        return sha256(path)
    except OSError as error:
        refuse_system(error, f"cannot read the weights {path}")
        raise TeacherError(f"cannot read the weights {path}: {error.strerror or error}", EXPECTED) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state dict in a file, with tensors as stored. The format is detected from the content.

    The wrappers and prefixes of training programs are removed, such as {"state_dict": ...} and "module.".

    Raises:
        TeacherError: the file has another format, is damaged, or contains code.
        StorageError: the system cannot read it.
    """
    if odd := oddity(path):  # opening a named pipe would wait forever
        raise TeacherError(f"{path} is {odd}", EXPECTED)
    try:
        held = _read(path)
    except TeacherError:
        raise
    except Exception as error:  # three readers raise various errors for damaged files
        refuse_system(error, f"cannot read the weights {path}")
        code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if code:
            raise TeacherError(
                f"{path} holds more than tensors ({code[1]}) and is not read, because that could run code",
                "a state dict of tensors",
                "convert it to safetensors in the environment that wrote it",
            ) from error
        reason = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise TeacherError(f"{path} is not a file of CLIP weights, or is damaged ({reason})", EXPECTED) from error
    held = unwrapped(held)
    if not isinstance(held, dict) or not any(isinstance(value, Tensor) for value in held.values()):
        raise TeacherError(f"{path} does not hold a state dict, but {kinds_in(held)}", EXPECTED)
    return held


def is_openai(state: dict[str, Any]) -> bool:
    """Whether a state dict comes from one of OpenAI's archives, whose networks use QuickGELU."""
    return all(name in state for name in OPENAI_FACTS)


def fill(model: nn.Module, state: dict[str, Any], path: Path, architecture: str) -> None:
    """Load a state dict of any precision into `model`. The position embedding is resized (bicubic) to its grid.

    Args:
        model: an open_clip CLIP on the CPU.
        state: state dict from `read_checkpoint`.
        path, architecture: for the error message.

    Raises:
        TeacherError: the weights do not fit, or are not all finite. The error names the first such tensor.
    """
    state = {name: value for name, value in state.items() if name not in OPENAI_FACTS}
    wanted = model.state_dict()
    if _has_square_grid(state):
        state[POSITIONS] = state[POSITIONS].float()  # as in the model, so that it is not resized in half precision
        resize_pos_embed(state, model)
    for name in [*wanted, *state]:
        difference = _difference(name, wanted, state)
        if difference:
            raise TeacherError(
                f"the weights {path} do not fit {architecture}: {difference}",
                todo="set teacher.model to the architecture of the weights",
            )
    model.load_state_dict({name: state[name].reshape(value.shape) for name, value in wanted.items()})
    bad = not_finite(model.state_dict())  # after loading, because float64 may become infinite
    if bad:
        raise TeacherError(
            f"{bad} in the weights {path} holds NaN or infinity", "finite weights", "get a whole copy of the file"
        )


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":  # safetensors starts with 8 bytes of length and a JSON header
        return safetensors.torch.load_file(path)
    if is_bomb(path):
        raise TeacherError(f"{path} would unpack to far more than its size and is not read", EXPECTED)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # PyTorch finds files without regard to upper and lower case.
            code = [entry for entry in archive.infolist() if entry.filename.lower().endswith(".py")]
            if any(b"__setstate__" in archive.read(entry) for entry in code):
                raise TeacherError(
                    f"{path} holds code that would run on loading (__setstate__) and is not read", EXPECTED
                )
        if code:
            with warnings.catch_warnings(action="ignore", category=FutureWarning):  # torch warns about the format
                return dict(torch.jit.load(path, map_location="cpu").state_dict())
    return torch.load(path, map_location="cpu", weights_only=True)


def _has_square_grid(state: dict[str, Any]) -> bool:
    positions = state.get(POSITIONS)
    if not isinstance(positions, Tensor) or positions.ndim != 2 or not len(positions):
        return False
    tokens = len(positions) - 1  # without the CLS token
    return isqrt(tokens) ** 2 == tokens


def _difference(name: str, wanted: dict[str, Tensor], state: dict[str, Any]) -> str:
    if name not in state:
        return f"{name} is missing"
    if name not in wanted:
        return f"{name} is unexpected"
    value = state[name]
    if not isinstance(value, Tensor):
        return f"{name} is not a tensor but {type(value).__name__}"
    found, expected = tuple(value.shape), tuple(wanted[name].shape)
    same = found == expected or value.numel() == wanted[name].numel() == 1  # logit_scale is () or (1,)
    return "" if same else f"{name} is {found}, expected {expected}"
