"""Values, keys and tokens of regions against float64 computations from the weights, and CLIP's own output."""

import copy
import json
import math

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from cliptea.teacher.clip import load_teacher
from cliptea.teacher.region_pictures import region_pictures

CROP, SIDE = 48, 6


@pytest.fixture
def teacher(folder):
    return load_teacher(str(folder), "unused", CROP)


@pytest.fixture
def views():
    images = torch.randint(0, 256, (3, 3, CROP, CROP), dtype=torch.uint8)
    valid = torch.ones(3, CROP, CROP, dtype=torch.bool)
    valid[1, 30:] = False
    return images, valid


def regions_of(number=3):
    maps = torch.randint(0, 4, (number, SIDE, SIDE)).to(torch.uint8)
    maps[maps == 3] = 255
    maps[:, 0, :3] = torch.arange(3, dtype=torch.uint8)  # each region exists
    maps[-1] = 255
    return maps


def test_one_pass_gives_the_same_tokens_as_clip_itself(teacher, views):
    encoded = teacher.encode(*views, ["dense", "value", "key"], blocks=1)
    cls, dense = teacher.tokens(*views)
    torch.testing.assert_close(encoded.cls_BD, cls, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(encoded.tokens["dense"], dense, rtol=1e-5, atol=1e-6)
    assert encoded.tokens["value"].shape == dense.shape
    assert encoded.tokens["key"].shape == (3, teacher.width, SIDE, SIDE)


def test_values_and_keys_are_those_of_the_attention_of_the_last_block(teacher, views):
    visual = teacher.clip.visual
    block, seen = visual.transformer.resblocks[-1], []
    handle = block.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    teacher.tokens(*views)
    handle.remove()
    patches = seen[0][:, 1:].double()
    normal = F.layer_norm(patches, patches.shape[-1:], block.ln_1.weight.double(), block.ln_1.bias.double())
    _, key_weight, value_weight = block.attn.in_proj_weight.double().chunk(3)
    _, key_bias, value_bias = block.attn.in_proj_bias.double().chunk(3)
    out = block.attn.out_proj
    value = (normal @ value_weight.T + value_bias) @ out.weight.double().T + out.bias.double()
    value = F.layer_norm(value, value.shape[-1:], visual.ln_post.weight.double(), visual.ln_post.bias.double())
    found = teacher.encode(*views, ["value", "key"]).tokens
    as_grid = lambda tokens: tokens.transpose(1, 2).unflatten(2, (SIDE, SIDE))  # noqa: E731
    torch.testing.assert_close(found["value"].double(), as_grid(value @ visual.proj.double()), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["key"].double(), as_grid(normal @ key_weight.T + key_bias), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def deep(folder, tmp_path_factory):
    """The small CLIP with enough layers for several last blocks."""
    path = tmp_path_factory.mktemp("deep")
    described = json.loads((folder / "open_clip_config.json").read_text())
    config = described["model_cfg"]
    config["vision_cfg"]["layers"] = 5
    torch.manual_seed(1)
    model = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
    safetensors.torch.save_file(model.state_dict(), path / "open_clip_model.safetensors")
    (path / "open_clip_config.json").write_text(json.dumps(described))
    return load_teacher(str(path), "unused", CROP)


@pytest.mark.parametrize("blocks", [1, 2, 3, 4])
def test_a_region_of_all_tokens_is_the_cls_token(deep, views, blocks):
    """Attending to itself and to the whole image, the token of a region goes the way of the CLS token."""
    encoded = deep.encode(*views, ["dense"], blocks=blocks)
    assert len(encoded.inputs) == blocks
    whole = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    for found, cls in zip(deep.region_tokens(encoded.inputs, whole), encoded.cls_BD, strict=True):
        torch.testing.assert_close(found[0], F.normalize(cls, dim=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("blocks", [1, 3])
def test_tokens_of_regions_equal_attention_in_loops(deep, views, blocks):
    maps, visual = regions_of(), copy.deepcopy(deep.clip.visual).double()
    encoded = deep.encode(*views, ["dense"], blocks=blocks)
    found = deep.region_tokens(encoded.inputs, maps)
    assert [len(tokens) for tokens in found] == [3, 3, 0]
    for image in range(2):
        for region in range(3):
            token = encoded.inputs[0][image, 0].double()
            for block, inputs in zip(visual.transformer.resblocks[-blocks:], encoded.inputs, strict=True):
                inside = maps[image].flatten() == region
                rows = [token, *inputs[image, 1:][inside].double()]  # the token itself, and its region
                token = token + attended(block.attn, [normal(row, block.ln_1) for row in rows])
                token = token + block.mlp(normal(token, block.ln_2))
            wanted = F.normalize(normal(token, visual.ln_post) @ visual.proj, dim=0)
            torch.testing.assert_close(found[image][region].double(), wanted, rtol=1e-3, atol=1e-5)


def normal(row, norm):
    return (row - row.mean()) / (row.var(unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias


def attended(attention, rows):
    """What the first of the rows takes from all of them."""
    width, heads = len(rows[0]), attention.num_heads
    queries, keys, values = (
        [row @ weight.T + bias for row in rows]
        for weight, bias in zip(attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True)
    )
    parts = []
    for head in range(heads):
        own = slice(head * width // heads, (head + 1) * width // heads)
        scores = [float(queries[0][own] @ key[own]) / math.sqrt(width // heads) for key in keys]
        shares = np.exp(scores) / np.exp(scores).sum()
        parts.append(sum(share * value[own] for share, value in zip(shares, values, strict=True)))
    return torch.cat(parts) @ attention.out_proj.weight.T + attention.out_proj.bias


def test_pictures_of_a_region_show_it_alone_and_enlarged(views):
    images, valid = views
    maps = torch.full((3, SIDE, SIDE), 255, dtype=torch.uint8)
    maps[0, 1:3, 2:6], maps[1, 0, 0], maps[1, 5, 5] = 0, 0, 1
    pictures = region_pictures(images, valid, maps)
    assert len(pictures.alone_R3CC) == len(pictures.box_R3CC) == 3
    patch = CROP // SIDE
    inside = torch.zeros(CROP, CROP, dtype=torch.bool)
    inside[patch : 3 * patch, 2 * patch :] = True
    assert torch.equal(pictures.mask_RCC[0], inside)
    assert torch.equal(pictures.alone_R3CC[0], images[0])
    assert not pictures.mask_RCC[2].any()  # it lies on padding
    assert not pictures.box_valid_RCC[2].any()
    box = images[0, :, patch : 3 * patch, 2 * patch :].float()
    wanted = F.interpolate(box[None], (CROP, CROP), mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(pictures.box_R3CC[0].float(), wanted, atol=0.51, rtol=0)


def test_picture_tokens_are_the_mean_of_two_cls_tokens(teacher, views):
    images, valid = views
    maps = regions_of()
    found = teacher.picture_tokens(images, valid, maps, batch_size=2)
    assert [len(tokens) for tokens in found] == [3, 3, 0]
    pictures = region_pictures(images, valid, maps)
    for k, token in enumerate(torch.cat(found)):
        alone, _ = teacher.tokens(pictures.alone_R3CC[k : k + 1], pictures.mask_RCC[k : k + 1])
        box, _ = teacher.tokens(pictures.box_R3CC[k : k + 1], pictures.box_valid_RCC[k : k + 1])
        wanted = F.normalize(F.normalize(alone, dim=1) + F.normalize(box, dim=1), dim=1)[0]
        torch.testing.assert_close(token, wanted, rtol=1e-4, atol=1e-5)
    assert [len(tokens) for tokens in teacher.picture_tokens(images, valid, torch.full_like(maps, 255), 2)] == [0] * 3
