"""The families of image towers, small and with random weights, against open_clip and float64 computations by hand.

The towers of timm are those that its own functions build, under their own names, but with a small width and depth.
"""

import json
import math
from contextlib import ExitStack
from functools import partial

import numpy as np
import open_clip
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from timm.models import _registry as registry

from cliptea.data.records import read_array, read_view
from cliptea.data.shards import ShardReader
from cliptea.errors import ConfigError, TeacherError
from cliptea.teacher.clip import load_teacher

NATIVE, CROP, PATCH, DIM = 32, 48, 16, 24
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
SIGLIP_TEXT = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
TINY = {"embed_dim": DIM, "depth": 2, "num_heads": 2}
# name -> vision_cfg, what makes the tower of timm small, and what else open_clip's own description of the family has
FAMILIES = {
    "siglip": (
        {"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map", "timm_proj": "none"},
        TINY,
        {"custom_text": True, "init_logit_bias": -10, "text_cfg": TEXT | SIGLIP_TEXT},
    ),
    "perception": (
        {"timm_model_name": "vit_pe_core_base_patch16_224", "timm_pool": "map", "timm_proj": None},
        TINY | {"attn_pool_num_heads": 2},
        {"custom_text": True},
    ),
    "eva": (
        {"timm_model_name": "eva02_base_patch16_clip_224", "timm_pool": "token", "timm_proj": None},
        TINY,
        {"custom_text": True},
    ),
    "mobile": (
        {"timm_model_name": "vit_large_patch14_clip_224", "timm_pool": "token", "timm_proj": None},
        TINY | {"patch_size": PATCH},
        {"custom_text": True},
    ),
    "vitamin": (
        {"timm_model_name": "vitamin_small_224", "timm_pool": "", "timm_proj": "linear"},
        TINY | {"embed_dim": 384},  # the width of its convolutions
        {"custom_text": True},
    ),
    "clipa": (
        {"layers": 2, "width": 32, "head_width": 16, "patch_size": PATCH, "image_size": NATIVE, "no_ln_pre": True,
         "pool_type": "avg", "final_ln_after_pool": True},
        None,
        {},
    ),
    "average": (
        {"layers": 2, "width": 32, "head_width": 16, "patch_size": PATCH, "image_size": NATIVE, "pool_type": "avg"},
        None,
        {},
    ),
    "late norm": (
        {"layers": 2, "width": 32, "head_width": 16, "patch_size": PATCH, "image_size": NATIVE, "ls_init_value": 0.1,
         "final_ln_after_pool": True},
        None,
        {"quick_gelu": True},
    ),
}  # fmt: skip


def small(family, size):
    """A context in which timm's function of a family builds the small tower for images of this size."""
    stack, (vision, changes, _) = ExitStack(), FAMILIES[family]
    if changes is not None:
        name, patch = vision["timm_model_name"], pytest.MonkeyPatch()
        patch.setitem(
            registry._model_entrypoints, name, partial(timm.models.model_entrypoint(name), **changes, img_size=size)
        )
        stack.callback(patch.undo)
    return stack


def network(family, size):
    """open_clip's network of a family, for images of this size."""
    vision, _, more = FAMILIES[family]
    config = {"embed_dim": DIM, "vision_cfg": vision | {"image_size": size}, "text_cfg": TEXT} | more
    custom = config.pop("custom_text", False)
    with small(family, size):
        return (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A function that saves a family with random weights as a folder in open_clip's layout, once."""
    done = {}

    def save(family):
        if family not in done:
            torch.manual_seed(0)
            path, model = tmp_path_factory.mktemp("tower"), network(family, NATIVE)
            state = {name: draw(name, value) for name, value in model.state_dict().items()}
            safetensors.torch.save_file(state, path / "open_clip_model.safetensors")
            vision, _, more = FAMILIES[family]
            described = {"embed_dim": DIM, "vision_cfg": vision, "text_cfg": TEXT} | more
            normal = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
            (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": described, "preprocess_cfg": normal}))
            done[family] = path
        return done[family]

    return save


def draw(name, value):
    """Random weights everywhere, also where a network begins with zeros and ones."""
    if name.startswith("visual") and value.is_floating_point():
        noise = torch.randn_like(value) * (0.5 / math.sqrt(value.shape[-1]) if value.ndim > 1 else 0.2)
        return 1 + noise if "norm" in name and name.endswith("weight") else noise
    return value


@pytest.fixture
def teacher(saved):
    """A function that opens a family at the usual crop."""

    def open_family(family, crop=CROP):
        with small(family, NATIVE):
            return load_teacher(str(saved(family)), "unused", crop)

    return open_family


def reference(family, folder, crop=CROP):
    """open_clip's network in float64, built for the crop, with positions that Pillow has resized."""
    model = network(family, crop)
    state = safetensors.torch.load_file(folder / "open_clip_model.safetensors")
    wanted = model.state_dict()
    for name in ("visual.positional_embedding", "visual.trunk.pos_embed"):
        if name in state and state[name].shape != wanted[name].shape:
            rows = state[name].reshape(-1, state[name].shape[-1])
            state[name] = resized(rows, NATIVE // PATCH, crop // PATCH).reshape(wanted[name].shape)
    model.load_state_dict(state)
    return model.double()


def resized(rows, before, after):
    prefix, grid = rows[: len(rows) - before**2], rows[len(rows) - before**2 :].reshape(before, before, -1).numpy()
    size, way = (after, after), Image.Resampling.BICUBIC
    channels = [np.asarray(Image.fromarray(grid[:, :, place]).resize(size, way)) for place in range(grid.shape[2])]
    return torch.cat([prefix, torch.from_numpy(np.stack(channels, -1)).reshape(after**2, -1)])


def views(number=3, crop=CROP):
    torch.manual_seed(1)
    images = torch.randint(0, 256, (number, 3, crop, crop), dtype=torch.uint8)
    return images, torch.ones(number, crop, crop, dtype=torch.bool)


def last_tokens(visual, images):
    """The tokens behind the last block, without prefix tokens, and behind the norm of timm's trunk."""
    if hasattr(visual, "trunk"):
        return visual.trunk.forward_features(images)[:, visual.trunk.num_prefix_tokens :]
    seen = []
    handle = visual.transformer.register_forward_hook(lambda _m, _i, output: seen.append(output))
    visual(images)
    handle.remove()
    return seen[0][:, 1:]


def naive_head(visual, token):
    """The head, with one token as all that it gets, from the weights."""
    if not hasattr(visual, "trunk"):
        return normal(token, visual.ln_post) @ visual.proj
    pool, trunk, width = visual.trunk.attn_pool, visual.trunk, len(token)
    if pool is not None:  # a softmax over one token is 1, so the attention returns the value
        value = pool.kv.weight[width:] @ token + pool.kv.bias[width:]
        token = pool.proj.weight @ value + pool.proj.bias
        hidden = pool.mlp.fc1.weight @ normal(token, pool.norm) + pool.mlp.fc1.bias
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2  # GELU
        token = token + pool.mlp.fc2.weight @ hidden + pool.mlp.fc2.bias
    for part in (trunk.fc_norm, trunk.head, *visual.head):
        if isinstance(part, torch.nn.LayerNorm):
            token = normal(token, part)
        elif isinstance(part, torch.nn.Linear):
            token = part.weight @ token + (0 if part.bias is None else part.bias)
    return token


def normal(row, norm):
    return (row - row.mean()) / (row.var(unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_open_clips_image_feature_and_its_head_on_each_patch(family, saved, teacher):
    opened, exact = teacher(family), reference(family, saved(family))
    images, valid = views()
    found, dense = opened.tokens(images, valid)
    pixels = images.double() / 127.5 - 1
    side = CROP // PATCH
    assert (opened.dim, tuple(opened.grid), dense.shape) == (DIM, (side, side), (3, DIM, side, side))
    torch.testing.assert_close(found.double(), exact.encode_image(pixels), rtol=1e-4, atol=1e-5)
    for image, tokens in enumerate(last_tokens(exact.visual, pixels)):
        for place, token in enumerate(tokens):
            wanted = naive_head(exact.visual, token)
            torch.testing.assert_close(
                dense[image, :, place // side, place % side].double(), wanted, rtol=1e-4, atol=1e-5
            )


@torch.no_grad()
@pytest.mark.parametrize("family", ["siglip", "perception"])
def test_dense_tokens_are_what_the_attention_pool_gives_for_one_token(family, saved, teacher):
    """timm's own pool, whose queries and keys do not matter then."""
    exact, (images, valid) = reference(family, saved(family)), views(1)
    (tokens,) = last_tokens(exact.visual, images.double() / 127.5 - 1)
    trunk = exact.visual.trunk
    wanted = trunk.head(trunk.fc_norm(trunk.attn_pool(tokens[:, None])))
    _, dense = teacher(family).tokens(images, valid)
    torch.testing.assert_close(dense[0].flatten(1).T.double(), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_of_a_view_do_not_depend_on_its_batch(family, teacher):
    opened, (images, valid) = teacher(family), views()
    together = opened.tokens(images, valid)
    alone = [opened.tokens(images[place : place + 1], valid[:1]) for place in range(3)]
    for found, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(found, torch.cat(parts), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["siglip", "clipa"])
def test_stored_tokens_are_those_of_a_forward_pass(family, make, saved):
    with small(family, NATIVE):
        made = make(f"teacher.weights={saved(family)}", store=family.replace(" ", "-"))
        opened = load_teacher(str(saved(family)), "unused", CROP)
    images = ShardReader(made.store, made.split.objects, "train")
    cls = ShardReader(made.store, made.cache.tokens.objects, "cls")
    dense = ShardReader(made.store, made.cache.clustered["dense"].objects, "dense")
    assert made.cache.tokens.info["grid"] == [3, 3]
    for record in range(0, 40, 7):
        view = read_view(images, *divmod(record, 2), made.run.config.teacher, made.run.config.data.seed)
        pixels, valid = torch.from_numpy(view.image.copy()).permute(2, 0, 1)[None], torch.from_numpy(view.valid)[None]
        wanted_cls, wanted = opened.tokens(pixels, valid)
        np.testing.assert_allclose(read_array(cls, record), wanted_cls[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(read_array(dense, record), wanted[0], rtol=2**-10, atol=1e-3)


@torch.no_grad()
def test_texts_go_through_open_clips_tower_of_siglip(saved, teacher):
    """Without a causal mask, with the last token and a bias in the projection."""
    exact = reference("siglip", saved("siglip"))
    tokenizer = open_clip.get_tokenizer(f"local-dir:{saved('siglip')}")
    texts = ["a photo of a cat", "a photo of a zebra"]
    wanted = exact.encode_text(tokenizer(texts))
    wanted = wanted / wanted.norm(dim=1, keepdim=True)
    torch.testing.assert_close(teacher("siglip").encode_text(texts).double(), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_values_of_a_tower_with_a_mean_are_known_and_those_of_timm_are_not(saved, teacher):
    """Values are W_v ln_1(x) behind the output projection and the head, and keys are W_k ln_1(x)."""
    images, valid = views()
    encoded = teacher("clipa").encode(images, valid, ["dense", "value", "key"])
    torch.testing.assert_close(encoded.tokens["dense"], teacher("clipa").tokens(images, valid)[1], rtol=1e-4, atol=1e-5)
    visual, inputs = reference("clipa", saved("clipa")).visual, []
    block = visual.transformer.resblocks[-1]
    block.register_forward_pre_hook(lambda _m, given: inputs.append(given[0]))
    visual(images.double() / 127.5 - 1)
    (_, weight_k, weight_v), (_, bias_k, bias_v) = (
        part.chunk(3) for part in (block.attn.in_proj_weight, block.attn.in_proj_bias)
    )
    projection = block.attn.out_proj
    for image, tokens in enumerate(inputs[0][:, 1:]):
        for place, token in enumerate(tokens):
            row = normal(token, block.ln_1)
            value = projection.weight @ (weight_v @ row + bias_v) + projection.bias
            for kind, wanted in (("value", naive_head(visual, value)), ("key", weight_k @ row + bias_k)):
                found = encoded.tokens[kind][image, :, place // 3, place % 3].double()
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(TeacherError, match=r"not known.*method\.clustering\.tokens=dense"):
        teacher("siglip").encode(images, valid, ["value"])


@pytest.mark.parametrize("family", ["siglip", "clipa"])
def test_a_crop_that_the_patches_do_not_fill_is_refused(family, teacher):
    with pytest.raises(ConfigError, match="such as 48"):
        teacher(family, 50)
