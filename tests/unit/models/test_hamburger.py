"""The Hamburger against plain NumPy in float64, and where its random bases come from."""

import numpy as np
import pytest
import torch
from torch import nn

from cliptea.models import build_student
from cliptea.models.hamburger import NMF, LightHam, factorise


def reference(x_CN, bases_CR, steps):
    """Lee and Seung's updates, entry by entry, for one image."""
    bases = bases_CR.copy()
    logits = x_CN.T @ bases
    coefficients = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    def updated():
        wanted, got = x_CN.T @ bases, coefficients @ (bases.T @ bases)
        return coefficients * wanted / (got + 1e-6)

    for _ in range(steps):
        coefficients = updated()
        wanted, got = x_CN @ coefficients, bases @ (coefficients.T @ coefficients)
        bases = bases * wanted / (got + 1e-6)
    return bases @ updated().T


def unit_columns(matrix):
    return matrix / np.linalg.norm(matrix, axis=-2, keepdims=True)


@pytest.mark.parametrize("steps", [0, 1, 6, 7])
def test_factorisation_is_the_multiplicative_updates(steps):
    rng = np.random.default_rng(steps)
    x, bases = rng.random((3, 8, 20)), unit_columns(rng.random((3, 8, 4)))
    wanted = np.stack([reference(one, start, steps) for one, start in zip(x, bases, strict=True)])
    answer = factorise(torch.from_numpy(x), torch.from_numpy(bases), steps)
    np.testing.assert_allclose(answer.numpy(), wanted, rtol=1e-10)


def test_a_low_rank_map_is_found_again():
    rng = np.random.default_rng(0)
    x = rng.random((1, 12, 3)) @ rng.random((1, 3, 50))
    bases = torch.from_numpy(unit_columns(rng.random((1, 12, 3))))
    errors = [
        float((factorise(torch.from_numpy(x), bases, steps) - torch.from_numpy(x)).norm()) for steps in (1, 7, 500)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02 * np.linalg.norm(x)


def test_gradients_flow_through_every_update():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 4, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    bases = torch.rand(1, 4, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, b: factorise(x, b, 6), (x, bases), atol=1e-6)


def test_in_evaluation_the_result_is_fixed_and_the_global_generator_untouched():
    module, x = NMF(8, 4).eval(), torch.rand(3, 8, 5, 6)
    before = torch.get_rng_state()
    first = module(x)
    torch.rand(1)
    torch.testing.assert_close(module(x), first, rtol=0, atol=0)
    torch.set_rng_state(before)
    module(x)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(module(x[1:2]), first[1:2])  # an image's result does not depend on its batch
    torch.testing.assert_close(NMF(8, 4).eval()(x), first, rtol=0, atol=0)  # nor on which network it is
    wanted = [
        reference(one.flatten(1).double().numpy(), unit_columns(module.fixed_CR.double().numpy()), 7) for one in x
    ]
    np.testing.assert_allclose(first.flatten(2).numpy(), np.stack(wanted), rtol=2e-4)


def test_in_training_bases_come_from_the_global_generator():
    module, x = NMF(8, 4).train(), torch.rand(2, 8, 5, 6)
    torch.manual_seed(3)
    first, second = module(x), module(x)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    torch.testing.assert_close(module(x), first, rtol=0, atol=0)
    torch.manual_seed(3)
    bases = unit_columns(torch.rand(2, 8, 4).double().numpy())
    wanted = [reference(one.flatten(1).double().numpy(), start, 6) for one, start in zip(x, bases, strict=True)]
    np.testing.assert_allclose(first.flatten(2).numpy(), np.stack(wanted), rtol=2e-4)


def test_factorisation_is_in_float32_under_autocast():
    module, x = NMF(64, 16).eval(), torch.rand(1, 64, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = module(x)
        half = module(x.bfloat16())
    torch.testing.assert_close(mixed, module(x), rtol=0, atol=0)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, module(x.bfloat16().float()).bfloat16(), rtol=0, atol=0)


def group_norm(x_BChw, module):
    grouped = x_BChw.reshape(len(x_BChw), module.num_groups, -1)
    centred = grouped - grouped.mean(2, keepdims=True)
    normed = (centred / np.sqrt((centred**2).mean(2, keepdims=True) + module.eps)).reshape(x_BChw.shape)
    return normed * module.weight.detach().numpy()[:, None, None] + module.bias.detach().numpy()[:, None, None]


def point(x_BChw, module):
    bias = 0 if module.bias is None else module.bias.detach().numpy()[:, None, None]
    return np.einsum("bchw,oc->bohw", x_BChw, module.weight.detach().numpy()[:, :, 0, 0]) + bias


def test_the_decoder_is_squeeze_hamburger_and_align():
    decoder = LightHam((3, 4, 5, 6), channels=64, rank=16).double().eval()
    for parameter in decoder.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.2, 0.8)
    maps = [torch.randn(2, dim, 7, 5, dtype=torch.float64) for dim in (3, 4, 5, 6)]
    x = np.concatenate([one.numpy() for one in maps[1:]], axis=1)
    x = np.maximum(group_norm(point(x, decoder.squeeze[0][0]), decoder.squeeze[0][1]), 0)
    bread = np.maximum(point(x, decoder.ham_in), 0).reshape(2, 64, 35)
    bases = unit_columns(decoder.ham.fixed_CR.double().numpy())
    meat = np.stack([reference(one, bases, 7) for one in bread]).reshape(2, 64, 7, 5)
    x = np.maximum(x + group_norm(point(meat, decoder.ham_out[0]), decoder.ham_out[1]), 0)
    x = np.maximum(group_norm(point(x, decoder.align[0][0]), decoder.align[0][1]), 0)
    np.testing.assert_allclose(decoder(maps).detach().numpy(), x, rtol=1e-3, atol=1e-3)  # the meat is float32


def resize(x_BChw, height, width):
    """Bilinear between pixel centres, one axis after the other."""
    for axis, size in ((2, height), (3, width)):
        length = x_BChw.shape[axis]
        at = (np.arange(size) + 0.5) * length / size - 0.5
        x_BChw = np.apply_along_axis(lambda line, at=at, n=length: np.interp(at, np.arange(n), line), axis, x_BChw)
    return x_BChw


def test_coarser_maps_are_resized_to_stride_8():
    decoder = LightHam((3, 4, 5, 6), channels=64, rank=16).eval()
    sizes = [(16, 24), (8, 12), (4, 6), (2, 3)]
    maps = [torch.randn(1, dim, *size) for dim, size in zip((3, 4, 5, 6), sizes, strict=True)]
    resized = [torch.from_numpy(resize(one.double().numpy(), 8, 12)).float() for one in maps]
    torch.testing.assert_close(decoder(maps), decoder(resized), rtol=1e-3, atol=1e-3)


def test_a_student_gives_the_same_features_twice_and_its_state_holds_no_bases():
    student, images = build_student("segnext_t", channels=8).eval(), torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(student(images), student(images), rtol=0, atol=0)
    assert [key for key in student.state_dict() if "fixed" in key] == []


@pytest.mark.parametrize("sizes", [[(8, 12), (4, 6), (2, 3)], [(7, 5), (4, 3), (2, 2)], [(1, 1), (1, 1), (1, 1)]])
def test_maps_projected_at_their_own_size_give_the_convolution_of_all_of_them(sizes):
    torch.manual_seed(0)
    decoder = LightHam((8, 16, 24, 32), 32, 4).double().eval()
    for values in (decoder.squeeze[0][1].weight, decoder.squeeze[0][1].bias):
        nn.init.uniform_(values, 0.2, 0.8)
    maps = [
        torch.randn(2, dim, *size, dtype=torch.float64, requires_grad=True)
        for dim, size in zip((16, 24, 32), sizes, strict=True)
    ]
    seen = []
    decoder.ham_in.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    decoder([maps[0], *maps])
    resized = [nn.functional.interpolate(one, sizes[0], mode="bilinear", align_corners=False) for one in maps]
    wanted = decoder.squeeze(torch.cat(resized, dim=1))
    torch.testing.assert_close(seen[0], wanted, rtol=1e-10, atol=1e-10)
    pull = torch.randn_like(wanted)
    inputs = [*maps, decoder.squeeze[0][0].weight]
    ours, theirs = (torch.autograd.grad((one * pull).sum(), inputs) for one in (seen[0], wanted))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
