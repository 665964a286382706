"""Checks that tensors are finite. Weights, features and logits with NaN or infinity are never used or stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from cliptea.errors import NotFinite

__all__ = ["named_tensors", "not_finite", "require_finite"]


def named_tensors(state: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested mappings and sequences, with their places as names, such as student.head.weight."""
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, Mapping | list | tuple):
        for key, value in state.items() if isinstance(state, Mapping) else enumerate(state):
            yield from named_tensors(value, f"{name}.{key}" if name else str(key))


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Name of the first tensor that holds NaN or infinity, or "". It waits once for each device."""
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point() or tensor.is_complex()}
    bad = set()
    for device in {tensor.device for tensor in floats.values()}:
        here = [name for name, tensor in floats.items() if tensor.device == device]
        flags = torch.stack([torch.isfinite(floats[name]).all() for name in here]).tolist()
        bad |= {name for name, finite in zip(here, flags, strict=True) if not finite}
    return next((name for name in floats if name in bad), "")


def require_finite(tensors: Mapping[str, Tensor], where: str, todo: str = "") -> None:
    """Check tensors.

    Args:
        where: what the tensors belong to, for the message.

    Raises:
        NotFinite: a tensor holds NaN or infinity; the error names the first one.
    """
    bad = not_finite(tensors)
    if bad:
        raise NotFinite(f"{bad} of {where} holds NaN or infinity", "finite numbers only", todo)
