"""The image towers of the teacher: its global token and its dense tokens, in CLIP's joint space.

One rule gives the dense tokens of every tower: the tower's own head, applied to one patch token as if it were all that
the head gets. For a CLS token, the head is the last norm and the projection. For an attention pool, the attention over
one token is this token's value: MaskCLIP's dense features (arXiv 2112.01071, section 3.2) of CLIP's own attention pool.

Shape legend: B images, C crop, L tokens of the grid, P prefix tokens such as CLS, E width of the tower, D joint width,
R regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from cliptea.errors import TeacherError
from cliptea.teacher.last_blocks import attending_tokens, key_tokens, require_plain_blocks, value_tokens

__all__ = ["OwnTower", "TimmTower", "TowerTokens", "tower_of"]


class TowerTokens(NamedTuple):
    """The tokens of normalised images, not normalised themselves."""

    global_BD: Tensor
    tokens: dict[str, Tensor]  # kind -> (B, L, D); keys have the width of the tower instead of D
    inputs: list[Tensor]  # (B, 1 + L, E) each, of the last blocks


class OwnTower:
    """open_clip's own vision transformer. Its global token is the CLS token, or the mean of patch tokens (CLIPA)."""

    def __init__(self, visual: Any) -> None:
        self._visual = visual
        visual.output_tokens = True
        self.width, self.dim = visual.proj.shape
        self.grid: tuple[int, int] = visual.grid_size

    def compile(self) -> None:
        """Compile the tower with torch.compile."""
        self._visual.compile()
        self._visual.forward_intermediates = torch.compile(self._visual.forward_intermediates)

    def tokens(self, images_B3CC: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) global tokens and (B, L, D) dense tokens, both after ln_post and the projection."""
        visual = self._visual
        global_BD, tokens_BLE = visual(images_B3CC)
        if visual.final_ln_after_pool:
            tokens_BLE = visual.ln_post(tokens_BLE)
        return global_BD, tokens_BLE @ visual.proj

    def encode(self, images_B3CC: Tensor, kinds: Sequence[str], blocks: int) -> TowerTokens:
        """Tokens of several kinds from one forward pass; arguments as for `Teacher.encode`.

        Raises:
            TeacherError: the attention has another form, and something else than dense tokens is wanted.
        """
        if set(kinds) <= {"dense"} and not blocks:
            global_BD, dense_BLD = self.tokens(images_B3CC)
            return TowerTokens(global_BD, {"dense": dense_BLD}, [])
        visual = self._visual
        require_plain_blocks(visual)
        layers = len(visual.transformer.resblocks)
        kept = min(max(blocks, 1), layers - 1)
        found = visual.forward_intermediates(
            images_B3CC,
            indices=list(range(layers - 1 - kept, layers)),
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        both = zip(found["image_intermediates_prefix"], found["image_intermediates"], strict=True)
        *inputs, output_BLE = [torch.cat(pair, dim=1) for pair in both]
        last_BLE = inputs[-1][:, 1:]
        make = {
            "dense": lambda: visual.ln_post(output_BLE[:, 1:]) @ visual.proj,
            "value": lambda: value_tokens(visual, last_BLE),
            "key": lambda: key_tokens(visual, last_BLE),
        }
        return TowerTokens(found["image_features"], {kind: make[kind]() for kind in kinds}, inputs)

    def regions(self, inputs: Sequence[Tensor], member_BRL: Tensor) -> Tensor:
        """(B, R, D), see `attending_tokens`."""
        return attending_tokens(self._visual, inputs, member_BRL)


class TimmTower:
    """A vision transformer of timm: SigLIP, Perception Encoder, EVA-CLIP, MobileCLIP-B, ViTamin.

    Its global token comes from a CLS token, from an attention pool, or from the mean of the patch tokens.
    """

    def __init__(self, visual: TimmModel) -> None:
        self._trunk: Any = visual.trunk
        self._head = visual.head
        self.width: int = self._trunk.embed_dim
        self.grid: tuple[int, int] = self._trunk.patch_embed.grid_size
        with torch.no_grad():
            self.dim = self._alone(next(self._trunk.parameters()).new_zeros(1, 1, self.width)).shape[2]

    def compile(self) -> None:
        """Compile the tower with torch.compile."""
        self._trunk.forward_features = torch.compile(self._trunk.forward_features)

    def tokens(self, images_B3CC: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) global tokens and (B, L, D) dense tokens, both after the tower's head."""
        tokens_BXE = self._trunk.forward_features(images_B3CC)
        global_BD = self._head(self._trunk.forward_head(tokens_BXE))
        return global_BD, self._alone(tokens_BXE[:, self._trunk.num_prefix_tokens :])

    def encode(self, images_B3CC: Tensor, kinds: Sequence[str], blocks: int) -> TowerTokens:
        """As for `OwnTower`; only dense tokens are known."""
        if set(kinds) - {"dense"} or blocks:
            raise TeacherError(
                f"the values, keys and region tokens of timm's {type(self._trunk).__name__} are not known",
                "dense tokens",
                "set method.clustering.tokens=dense and method.clustering.region_tokens=none or crop",
            )
        global_BD, dense_BLD = self.tokens(images_B3CC)
        return TowerTokens(global_BD, {"dense": dense_BLD}, [])

    def regions(self, inputs: Sequence[Tensor], member_BRL: Tensor) -> Tensor:
        """Not known; `encode` raises an error before."""
        raise NotImplementedError

    def _alone(self, tokens_BLE: Tensor) -> Tensor:
        """(B, L, D): what the head makes of each token alone."""
        pool, trunk = self._trunk.attn_pool, self._trunk
        if pool is not None:
            value_BLE = pool.kv(tokens_BLE).chunk(2, dim=2)[1]
            token_BLE = pool.proj(value_BLE)
            tokens_BLE = token_BLE + pool.mlp(pool.norm(token_BLE))
        return self._head(trunk.head(trunk.fc_norm(tokens_BLE)))


def tower_of(visual: nn.Module) -> OwnTower | TimmTower:
    """The tower of a network from `cliptea.teacher.network`, whose positions have their final size."""
    return TimmTower(visual) if isinstance(visual, TimmModel) else OwnTower(visual)
