"""Networks without random initial weights are the same networks once their weights are loaded."""

import pytest
import torch

from cliptea.models import build_student

NAMES = [
    "demo_fpn", "segformer_b0", "swin_t", "convnext_atto", "segnext_t",
    "timm:swinv2_cr_tiny_ns_224", "timm:pvt_v2_b0", "timm:mobilenetv3_small_050",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_loaded_weights_give_the_same_network(name):
    torch.manual_seed(1)
    usual = build_student(name, 16).eval()
    state = torch.get_rng_state()
    quick = build_student(name, 16, random=False).eval()
    assert torch.equal(torch.get_rng_state(), state)
    parameters = dict(usual.named_parameters())
    for (key, own), (other, buffer) in zip(usual.named_buffers(), quick.named_buffers(), strict=True):
        assert key == other
        assert torch.equal(own, buffer), key  # tables that are computed, not drawn
    assert any(not torch.equal(own, parameters[key]) for key, own in quick.named_parameters())
    quick.load_state_dict(usual.state_dict())
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(usual(images), quick(images))
