"""Networks on the meta device: names, shapes and counts without memory or arithmetic."""

import functools

import pytest
import torch
from torch import nn

from cliptea.models import build_student


@pytest.fixture(scope="session")
def on_meta():
    """A function that builds a student on the meta device, once for each name."""

    @functools.cache
    def build(name):
        with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
            patch.setattr(nn.Module, "apply", lambda module, initialise: module)  # there are no values to initialise
            # the Mix Transformer reads its rates of stochastic depth out of a tensor, which has to have values
            patch.setattr(torch, "linspace", functools.partial(torch.linspace, device="cpu"))
            return build_student(name).eval()

    return build
