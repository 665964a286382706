"""Float32 arithmetic inside mixed-precision training."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = ["in_float32"]

P = ParamSpec("P")
T = TypeVar("T")


def in_float32(function: Callable[P, T]) -> Callable[P, T]:
    """Make a tensor function compute in float32, whatever the caller's autocast state and input types.

    Exponentials of logits near +-100 and sums over 10^5 pixels lose their meaning in half precision. Tensors
    that are direct arguments are cast when they are floating point; integer and boolean ones are left alone.

    Args:
        function: takes at least one tensor, positionally or by keyword.

    Returns:
        A function of the same signature.
    """

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        device = next(value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        # A cast argument keeps its parameter's type, which a checker cannot see through ParamSpec.
        untyped: Callable[..., T] = function
        with torch.autocast(device.type, enabled=False):
            return untyped(*map(_cast, args), **{name: _cast(value) for name, value in kwargs.items()})

    return wrapper


def _cast(value: object) -> object:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
