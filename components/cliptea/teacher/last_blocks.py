"""What the last blocks of CLIP's image tower hold besides its output: values, keys, and tokens of regions.

The tower is not changed. All of this is computed from the inputs of its last blocks, and needs no further forward pass.
None of it is in the paper.

Shape legend: B images, L tokens of the grid, E width of the tower, D joint width, R regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from cliptea.errors import TeacherError

__all__ = ["attending_tokens", "key_tokens", "require_plain_blocks", "value_tokens"]


def require_plain_blocks(visual: Any) -> None:
    """Reject towers whose attention has another form.

    Raises:
        TeacherError: it has.
    """
    blocks = visual.transformer.resblocks
    if not all(
        isinstance(block, ResidualAttentionBlock) and isinstance(block.attn, nn.MultiheadAttention) for block in blocks
    ):
        raise TeacherError(
            f"CLIP's blocks are of type {type(blocks[-1]).__name__}, whose values and keys are not known",
            "a vision transformer such as ViT-B-16-quickgelu",
            "set method.clustering.tokens=dense and method.clustering.region_tokens=none or crop",
        )


def value_tokens(visual: Any, input_BLE: Tensor) -> Tensor:
    """Values of the last block, brought to the joint space: W_v ln_1(x), output projection, ln_post, projection.

    Source: MaskCLIP (arXiv 2112.01071, section 3.2).

    Args:
        input_BLE: (B, L, E), input of the last block without the CLS token.

    Returns:
        (B, L, D).
    """
    block = visual.transformer.resblocks[-1]
    value_BLE = _projected(block, input_BLE, 2)
    return visual.ln_post(block.attn.out_proj(value_BLE)) @ visual.proj


def key_tokens(visual: Any, input_BLE: Tensor) -> Tensor:
    """(B, L, E) keys W_k ln_1(x) of the last block, all heads side by side; arguments as for `value_tokens`."""
    return _projected(visual.transformer.resblocks[-1], input_BLE, 1)


def attending_tokens(visual: Any, inputs: Sequence[Tensor], member_BRL: Tensor) -> Tensor:
    """CLIP's embedding of regions, from a CLS token for each region that attends to itself and its region only.

    The tokens start as copies of the CLS token at the input of the first of the last blocks, and go through the blocks
    beside the image's own tokens, which do not see them.

    Args:
        inputs: (B, 1 + L, E) each, inputs of the last blocks, first block first, with the CLS token in front.
        member_BRL: (B, R, L) bool, tokens of each region; a region may be empty.

    Returns:
        (B, R, D), in the joint space, not normalised.
    """
    blocks = list(visual.transformer.resblocks)[-len(inputs) :]
    regions = member_BRL.shape[1]
    itself_BRR = torch.eye(regions, dtype=torch.bool, device=member_BRL.device).expand(len(member_BRL), -1, -1)
    hidden_BRX = ~torch.cat([member_BRL, itself_BRR], dim=2)
    token_BRE = inputs[0][:, :1].expand(-1, regions, -1)
    for block, input_BLE in zip(blocks, inputs, strict=True):
        query_BRE = block.ln_1(token_BRE)
        known_BXE = torch.cat([block.ln_1(input_BLE[:, 1:]), query_BRE], dim=1)
        mask = hidden_BRX.repeat_interleave(block.attn.num_heads, 0)
        attended_BRE, _ = block.attn(query_BRE, known_BXE, known_BXE, need_weights=False, attn_mask=mask)
        token_BRE = token_BRE + block.ls_1(attended_BRE)
        token_BRE = token_BRE + block.ls_2(block.mlp(block.ln_2(token_BRE)))
    return visual.ln_post(token_BRE) @ visual.proj


def _projected(block: Any, input_BLE: Tensor, part: int) -> Tensor:
    """The queries (0), keys (1) or values (2) of a block."""
    width, attention = input_BLE.shape[2], block.attn
    rows = slice(part * width, (part + 1) * width)
    return F.linear(block.ln_1(input_BLE), attention.in_proj_weight[rows], attention.in_proj_bias[rows])
