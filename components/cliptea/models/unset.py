"""Networks whose random initial weights are zeros, because they are loaded afterwards or only counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["ZerosForRandom"]

RANDOM = {torch.ops.aten.normal_, torch.ops.aten.uniform_, torch.ops.aten.erfinv_}


class ZerosForRandom(TorchDispatchMode):
    """Inside this context, tensors that would be filled with random numbers are filled with zeros.

    Random numbers for the 61 million weights of SegFormer-B4 take seconds. Everything else is computed as usual, so
    that tables such as the relative positions of Swin are right.
    """

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket in RANDOM:
            return args[0].zero_()
        return func(*args, **(kwargs or {}))
