"""MSCAN against the same network written out in NumPy, float64, without torch's convolutions."""

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import erf
from torch import nn

from cliptea.models.mscan import MSCAN, Block, Gate


def conv(x_BChw, module):
    """A convolution of the module's weights, stride, padding and groups."""
    weight, bias = module.weight.detach().numpy(), module.bias.detach().numpy()
    (up, left), groups = module.padding, module.groups
    padded = np.pad(x_BChw, ((0, 0), (0, 0), (up, up), (left, left)))
    windows = sliding_window_view(padded, module.kernel_size, axis=(2, 3))[
        :, :, :: module.stride[0], :: module.stride[1]
    ]
    split = windows.reshape(len(x_BChw), groups, -1, *windows.shape[2:])
    kernels = weight.reshape(groups, -1, *weight.shape[1:])
    answer = np.einsum("bgihwkl,goikl->bgohw", split, kernels)
    return answer.reshape(len(x_BChw), -1, *answer.shape[3:]) + bias[:, None, None]


def batch_norm(x_BChw, module):
    scale = module.weight.detach().numpy() / np.sqrt(module.running_var.numpy() + module.eps)
    shift = module.bias.detach().numpy() - module.running_mean.numpy() * scale
    return x_BChw * scale[:, None, None] + shift[:, None, None]


def layer_norm(x_BChw, module):
    centred = x_BChw - x_BChw.mean(1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(1, keepdims=True) + module.eps)
    return normed * module.weight.detach().numpy()[:, None, None] + module.bias.detach().numpy()[:, None, None]


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def gate(x, module):
    local = conv(x, module.conv0)
    scales = [
        local,
        conv(conv(local, module.conv0_1), module.conv0_2),
        conv(conv(local, module.conv1_1), module.conv1_2),
        conv(conv(local, module.conv2_1), module.conv2_2),
    ]
    return conv(sum(scales), module.conv3) * x


def block(x, module):
    normed = batch_norm(x, module.norm1)
    attention = conv(gate(gelu(conv(normed, module.attn.proj_1)), module.attn.spatial_gating_unit), module.attn.proj_2)
    x = x + module.layer_scale_1.detach().numpy()[:, None, None] * (attention + normed)
    hidden = gelu(conv(conv(batch_norm(x, module.norm2), module.mlp.fc1), module.mlp.dwconv))
    return x + module.layer_scale_2.detach().numpy()[:, None, None] * conv(hidden, module.mlp.fc2)


def randomise(module):
    """Random float64 parameters and statistics, so that nothing is hidden by a zero or a one."""
    module.double().eval()
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.1, 0.9)
            if tensor.ndim > 1:
                nn.init.normal_(tensor, std=0.3)
    return module


@pytest.mark.parametrize("size", [(9, 14), (23, 8)])
def test_the_gate_is_its_equations(size):
    module, x = randomise(Gate(5)), torch.randn(2, 5, *size, dtype=torch.float64)
    kernels = [tuple(c.kernel_size) for c in module.children()]
    assert kernels == [(5, 5), (1, 7), (7, 1), (1, 11), (11, 1), (1, 21), (21, 1), (1, 1)]
    np.testing.assert_allclose(module(x).detach().numpy(), gate(x.numpy(), module), rtol=1e-10, atol=1e-10)


def test_a_block_is_its_equations():
    module, x = randomise(Block(6, 24, drop_path=0.5)), torch.randn(2, 6, 7, 10, dtype=torch.float64)
    np.testing.assert_allclose(module(x).detach().numpy(), block(x.numpy(), module), rtol=1e-9, atol=1e-9)


def test_the_encoder_is_stem_blocks_and_norms():
    module = randomise(MSCAN((4, 6, 8, 10), (1, 2, 1, 1), (2, 2, 1, 1), drop_path=0.3))
    x = torch.randn(2, 3, 45, 64, dtype=torch.float64)
    maps = module(x)
    stem = module.patch_embed1.proj
    now = batch_norm(conv(gelu(batch_norm(conv(x.numpy(), stem[0]), stem[1])), stem[3]), stem[4])
    for stage in (1, 2, 3, 4):
        if stage > 1:
            embed = getattr(module, f"patch_embed{stage}")
            now = batch_norm(conv(now, embed.proj), embed.norm)
        for one in getattr(module, f"block{stage}"):
            now = block(now, one)
        now = layer_norm(now, getattr(module, f"norm{stage}"))
        np.testing.assert_allclose(maps[stage - 1].detach().numpy(), now, rtol=1e-8, atol=1e-8)
    assert [tuple(one.shape[1:]) for one in maps] == [(4, 12, 16), (6, 6, 8), (8, 3, 4), (10, 2, 2)]


def test_new_blocks_start_near_the_identity():
    module = MSCAN((32, 64), (2, 2), (8, 8), drop_path=0.1)
    scales = [p for n, p in module.named_parameters() if "layer_scale" in n]
    assert len(scales) == 8
    assert all((scale == 0.01).all() for scale in scales)
    deviation = module.block2[0].mlp.fc1.weight.std().item()
    assert deviation == pytest.approx(np.sqrt(2 / (64 * 8)), rel=0.05)
