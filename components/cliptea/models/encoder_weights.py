"""Initial weights of an encoder. They are read, unwrapped, and only loaded if all of them fit."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.models import load_state_dict_from_hf
from torch import Tensor, nn

from cliptea.errors import ClipteaError, ConfigError, refuse_system
from cliptea.files import is_bomb, oddity
from cliptea.weights_source import WeightsSource

__all__ = ["from_hub", "from_url", "kinds_in", "load_encoder", "misfits", "read_state", "unwrapped", "without_prefix"]

State = dict[str, Tensor]
HUB_FILES = "model.safetensors", "pytorch_model.bin"  # that timm may read in a repository
# Keys under which training programs store the weights, in timm's order: first the averages (EMA), if there are any.
WRAPPERS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema", "state_dict", "model_state_dict",
    "model_state", "model", "module", "params", "net", "network", "weights",
)  # fmt: skip
# What DDP, torch.compile, Lightning, averages and such programs put before each name.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "student.", "ema.", "ema_model.")
AVERAGED = "ema_model."  # beside online_model, in ema_pytorch
COUNTERS = {"n_averaged", "num_updates", "initted", "step", "decay"}  # of averages, beside the weights


def read_state(source: WeightsSource, published: Callable[[str], State]) -> State:
    """Weights by name.

    Args:
        source: a file (.safetensors, .pth, .bin) or a tag.
        published: returns the weights of a tag.

    Raises:
        ConfigError: the file cannot be read, or the tag's weights cannot be downloaded.
        StorageError: the file is missing, or the system cannot read it.
    """
    return _read(source.fetch(), source.text) if source.is_file else published(source.text)


def from_hub(repository: str) -> State:
    """The weights in a repository of the Hugging Face hub, from the library's cache or downloaded into it.

    Args:
        repository: OWNER/NAME or OWNER/NAME@REVISION.

    Raises:
        ConfigError: the download failed.
        StorageError: the cache cannot be used.
    """
    from cliptea.hub_cache import cached  # imported here, because models in MLflow contain this module without it

    name, _, revision = repository.partition("@")

    def get() -> State:
        for file in HUB_FILES:
            cached(name, file, revision or None)
        return load_state_dict_from_hf(repository)

    return _downloaded(f"model.safetensors of {name}", get)


def from_url(url: str) -> State:
    """The same for the address of a file, with the cache of torch.hub."""
    from cliptea.hub_cache import is_whole  # imported here for the same reason

    copy = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]

    def is_damaged() -> bool:
        return copy.exists() and not is_whole(copy)

    def get() -> State:
        is_damaged()  # a damaged copy is deleted now
        state = torch.hub.load_state_dict_from_url(url, map_location="cpu", progress=False, weights_only=True)
        if is_damaged():
            raise OSError("what was downloaded is damaged")
        return state

    return _downloaded(url, get)


def _downloaded(what: str, get: Callable[[], State]) -> State:
    """Call `get` to download `what`. Failures become one line that explains what to do without internet access."""
    try:
        return _unwrap(get(), what)
    except ClipteaError:
        raise
    except Exception as error:  # clients raise many kinds of errors without network access
        todo = "download the file elsewhere and set student.pretrained to its path or s3:// URI"
        refuse_system(error, f"cannot download the weights {what}", todo)
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"cannot download the weights {what}: {type(error).__name__}: {reason}",
            "access to the internet",
            f"or {todo}",
        ) from error


def load_encoder(encoder: nn.Module, state: Mapping[str, Tensor], source: WeightsSource) -> None:
    """Load `state` into `encoder`, which it must fit key by key and shape by shape.

    Raises:
        ConfigError: it does not fit. The error names the first keys of each kind.
    """
    if said := misfits(encoder, state):
        raise ConfigError(f"the weights {source} do not fit the encoder: {said}", "weights for this student.backbone")
    encoder.load_state_dict(dict(state))


def misfits(module: nn.Module, state: Mapping[str, Tensor]) -> str:
    """The first names of each kind that do not fit a module, or "" if all weights fit."""
    wanted = module.state_dict()
    problems = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "with another shape": [key for key in wanted if key in state and wanted[key].shape != state[key].shape],
    }
    return ", ".join(f"{len(keys)} {kind} ({', '.join(keys[:2])})" for kind, keys in problems.items() if keys)


def _read(file: Path, source: str) -> State:
    try:
        if odd := oddity(file):
            raise OSError(f"it is {odd}")
        with file.open("rb"):  # this error of the system says more than that of the reader
            pass
        safe = file.suffix == ".safetensors"
        if not safe and is_bomb(file):
            raise ValueError("it would unpack to far more than its size")
        content = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make torch raise almost any error
        refuse_system(error, f"cannot read the weights {source}")
        code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        reason = f"it holds more than tensors: {code[1]}" if code else " ".join(str(error).split())[:120]
        raise ConfigError(
            f"cannot read the weights {source}: {reason}", "a .safetensors file, or a .pth or .bin file of tensors only"
        ) from error
    return _unwrap(content, source)


def _unwrap(content: Any, source: str) -> State:
    found = unwrapped(content)
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise ConfigError(f"the weights {source} do not contain a state dict, but {kinds_in(found)}", "tensors by name")
    return dict(found)


def kinds_in(content: Any) -> str:
    """What is in a file that holds no state dict: the first names and their types, or its own type."""
    kinds = {str(key): type(value).__name__ for key, value in content.items()} if isinstance(content, Mapping) else {}
    odd = [f"{key} ({kind})" for key, kind in kinds.items() if kind != "Tensor"] or [type(content).__name__]
    return ", ".join(odd[:3])


def unwrapped(content: Any) -> Any:
    """The state dict in what a training program stored, without prefixes that all names share.

    It knows the layouts of DDP (module.), torch.compile (_orig_mod.), Lightning (state_dict, model.), timm, and
    averaged weights (EMA), which are preferred. Anything else is returned as it is.
    """
    while isinstance(content, Mapping):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        return content
    names = [name for name in content if isinstance(name, str) and name not in COUNTERS]
    names = [name for name in names if name.startswith(AVERAGED)] or names
    short = without_prefix({name: content[name] for name in names})
    return content if list(short) == names else short


def without_prefix(state: Mapping[str, Any], wanted: Collection[str] = ()) -> dict[str, Any]:
    """The weights without prefixes of training programs that all names share, until the names are those `wanted`."""
    names, short = list(state), list(state)
    while {*short} != {*wanted} and (prefix := _shared_prefix(short)):
        short = [name.removeprefix(prefix) for name in short]
    return {after: state[before] for before, after in zip(names, short, strict=True)}


def _shared_prefix(names: list[str]) -> str:
    return next((one for one in PREFIXES if names and all(name.startswith(one) for name in names)), "")
