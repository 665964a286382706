"""SegFormer's decoder against the one that concatenates the levels at the largest size (its formula in the paper)."""

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from cliptea.models import build_student
from cliptea.models.segformer import Decoder

DIMS = (32, 64, 160, 256)


def concatenated(decoder, maps):
    """Every level through its linear layer, resized, and the convolution over all of them."""
    size = [edge // 4 for edge in maps[0].shape[2:]]
    levels = [
        nn.functional.interpolate(
            torch.einsum("bdhw,cd->bchw", one, stage.linear.weight) + stage.linear.bias[:, None, None],
            size,
            mode="bilinear",
            align_corners=False,
        )
        for stage, one in zip(decoder.mlp_stage, maps[:1:-1], strict=True)
    ]
    return decoder.fuse_stage(torch.cat(levels, dim=1))


def levels_of(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.zeros(2, 3, height, width), torch.zeros(2, 0, height // 2, width // 2)]
    for dim, stride in zip(DIMS, (4, 8, 16, 32), strict=True):
        size = (-(-height // stride), -(-width // stride))  # as a convolution with padding rounds it
        maps.append(torch.randn(2, dim, *size, generator=generator))
    return [one.double().requires_grad_(one.numel() > 0) for one in maps]


def gradients(form, decoder, maps):
    found = form(maps)
    pull = torch.randn(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(1))
    return found, torch.autograd.grad((found * pull).sum(), [*maps[2:], *decoder.parameters()])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(64, 96), (96, 32), (75, 133), (50, 39)])
def test_levels_at_their_own_size_give_the_formula_and_its_gradients(size, training):
    torch.manual_seed(0)
    decoder = build_student("segformer_b0", channels=8).decoder.double().train(training)
    norm = decoder.fuse_stage[1]
    for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(values, 0.2, 0.8)
    maps = levels_of(*size)
    ours, our_gradients = gradients(decoder, decoder, maps)
    wanted, wanted_gradients = gradients(lambda given: concatenated(decoder, given), decoder, maps)
    assert ours.shape == (2, 256, size[0] // 4, size[1] // 4)
    torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-10)
    for one, other in zip(our_gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


def test_the_decoder_is_smps_in_names_shapes_and_results():
    torch.manual_seed(0)
    theirs = smp.Segformer("mit_b0", encoder_weights=None, classes=8, decoder_segmentation_channels=256).decoder.eval()
    torch.manual_seed(0)
    ours = build_student("segformer_b0", channels=8).decoder.eval()
    assert isinstance(ours, Decoder)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    maps = [one.detach().float() for one in levels_of(64, 96)]
    with torch.no_grad():
        torch.testing.assert_close(ours(maps), theirs(maps), rtol=1e-4, atol=1e-5)
