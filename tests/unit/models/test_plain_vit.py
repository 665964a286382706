"""Students with plain vision transformers: the pyramid, sizes, positions, weights and parameter groups."""

import copy

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from PIL import Image

from cliptea.errors import ConfigError
from cliptea.models import build_student
from cliptea.models.plain_vit import DROP_PATH, PyramidDecoder, is_plain

SMALL = "timm:test_vit"  # of timm, 6 blocks with patches of 16 pixels
LARGER = [
    ("timm:vit_small_patch14_dinov2", 14),
    ("timm:vit_small_patch16_dinov3", 16),  # rotary positions and four registers
]


@pytest.fixture(scope="module")
def small():
    return build_student(SMALL, channels=24).eval()


def test_what_timm_calls_a_transformer_with_patches_is_plain():
    assert all(is_plain(name.removeprefix("timm:")) for name, _ in LARGER)
    assert is_plain("eva02_tiny_patch14_224")
    assert not any(is_plain(name) for name in ("resnet18", "swin_tiny_patch4_window7_224", "convnext_atto"))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 128), (80, 48), (70, 33), (9, 16)])
def test_features_cover_images_of_any_size(small, height, width):
    with torch.no_grad():
        features = small(torch.randn(2, 3, height, width))
    assert features.shape == (2, 24, 4 * -(-height // 16), 4 * -(-width // 16))
    assert features.isfinite().all()


@pytest.mark.parametrize(("name", "patch"), LARGER)
def test_dinos_features_have_a_quarter_of_their_patch(name, patch, on_meta):
    student = on_meta(name)
    assert student.encoder.places == [2, 5, 8, 11]
    for height, width in ((512, 512), (480, 512), (64, 96)):
        features = student(torch.empty(1, 3, height, width, device="meta"))
        assert features.shape == (1, 512, 4 * -(-height // patch), 4 * -(-width // patch))


def test_the_maps_are_the_outputs_of_four_evenly_spaced_blocks(small):
    """Taken by hooks, without the CLS token and in the order of the image."""
    model, seen, images = small.encoder.model, [], torch.randn(2, 3, 48, 80)
    handles = [block.register_forward_hook(lambda _m, _i, output: seen.append(output)) for block in model.blocks]
    with torch.no_grad():
        maps = small.encoder(images)
    for handle in handles:
        handle.remove()
    assert len(seen) == 6
    for found, place in zip(maps, (0, 2, 3, 5), strict=True):
        torch.testing.assert_close(found, seen[place][:, 1:].transpose(1, 2).unflatten(2, (3, 5)))


def test_images_that_patches_do_not_fill_are_enlarged(small):
    images = torch.randn(1, 3, 70, 33)
    with torch.no_grad():
        wanted = small(F.interpolate(images, (80, 48), mode="bilinear", align_corners=False))
        torch.testing.assert_close(small(images), wanted)


def test_positions_are_resized_as_pillow_resizes_images(small):
    """The grid of 10x10 patches becomes 4x6: an encoder that is built for that size gives the same maps."""
    state = copy.deepcopy(small.encoder.model.state_dict())
    cls, grid = state["pos_embed"][:, :1], state["pos_embed"][0, 1:].reshape(10, 10, -1).numpy()
    channels = [
        Image.fromarray(grid[:, :, channel]).resize((6, 4), Image.Resampling.BICUBIC)
        for channel in range(grid.shape[2])
    ]
    resized = torch.from_numpy(np.stack([np.asarray(channel) for channel in channels], -1)).reshape(1, 24, -1)
    state["pos_embed"] = torch.cat([cls, resized], dim=1)
    fixed = timm.create_model("test_vit", img_size=(64, 96)).eval()
    fixed.prune_intermediate_layers([0, 2, 3, 5], prune_norm=True)
    fixed.load_state_dict(state)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        wanted = fixed.forward_intermediates(images, indices=[0, 2, 3, 5], intermediates_only=True)
        for found, one in zip(small.encoder(images), wanted, strict=True):
            torch.testing.assert_close(found, one, rtol=1e-4, atol=1e-4)


def test_the_pyramid_has_four_two_one_and_half_times_the_grid():
    decoder, sizes = PyramidDecoder(8, 16).eval(), []
    decoder.upernet.register_forward_pre_hook(lambda _m, given: sizes.extend(m.shape[2:] for m in given[0][2:]))
    with torch.no_grad():
        assert decoder([torch.randn(1, 8, 5, 3) for _ in range(4)]).shape == (1, 16, 20, 12)
    assert sizes == [(20, 12), (10, 6), (5, 3), (3, 2)]


def test_features_of_an_image_do_not_depend_on_its_batch(small):
    images = torch.randn(3, 3, 64, 48)
    with torch.no_grad():
        together, alone = small(images), torch.cat([small(images[place : place + 1]) for place in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter():
    student = build_student(SMALL, channels=24, dropout=0.0)
    rates = [module.drop_prob for module in student.encoder.modules() if hasattr(module, "drop_prob")]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(DROP_PATH)
    for module in student.modules():  # a dropped path has no gradient
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    student(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert [name for name, parameter in student.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    ("name", "special"),
    [
        (SMALL, {"pos_embed", "cls_token"}),
        (LARGER[1][0], {"cls_token", "reg_token"}),
        ("timm:deit_tiny_distilled_patch16_224", {"pos_embed", "cls_token", "dist_token"}),
    ],
)
def test_positions_and_tokens_do_not_decay(name, special, on_meta):
    student = on_meta(name)
    still = {id(p) for group in student.parameter_groups() if not group.decay for p in group.parameters}
    found = {name.rpartition(".")[2] for name, p in student.named_parameters() if p.ndim > 1 and id(p) in still}
    assert found == special
    assert all(id(p) in still for p in student.parameters() if p.ndim == 1)


def test_weights_of_the_classifier_fit(tmp_path):
    """Its classifier and last norm are dropped, and everything else is loaded."""
    state = {name: torch.randn_like(value) for name, value in timm.create_model("test_vit").state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "vit.safetensors")
    loaded = build_student(SMALL, channels=8, pretrained=str(tmp_path / "vit.safetensors")).encoder.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())
    assert {name.partition(".")[0] for name in state.keys() - loaded.keys()} == {"head", "norm"}


def test_weights_in_metas_layout_fit_dinov2(tmp_path):
    """There, a mask token stands beside the weights, and layer scales have another name."""
    model = timm.create_model("vit_small_patch14_dinov2")
    state = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    torch.save(state | {"mask_token": torch.zeros(1, 384)}, tmp_path / "dinov2_vits14_pretrain.pth")
    student = build_student(LARGER[0][0], channels=8, pretrained=str(tmp_path / "dinov2_vits14_pretrain.pth"))
    loaded = student.encoder.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


def test_weights_of_another_transformer_are_one_line(tmp_path):
    safetensors.torch.save_file(timm.create_model("test_vit2").state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=r"other\.safetensors") as caught:
        build_student(SMALL, channels=8, pretrained=str(tmp_path / "other.safetensors"))
    assert "\n" not in str(caught.value)


def test_its_plan_counts_all_parameters():
    from cliptea import settings
    from cliptea.plan import make_plan

    config = settings.load("demo", [f"student.backbone={SMALL}", "variants=[table4/mean]"])
    (student,) = make_plan(config, {}).students
    assert student.backbone == SMALL
    assert student.parameters == sum(p.numel() for p in build_student(SMALL, channels=64).parameters())
