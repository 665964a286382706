"""Global Learning Module (arXiv 2310.02296, section 3.2): the student's global token learns from CLIP's CLS token.

Shapes: B images, D channels (the width of CLIP's embedding), h w feature map, L = h*w, K tokens in the bank, N = B + K
contrasted tokens.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptea.method.precision import in_float32

__all__ = ["GlobalToken", "GlobalTokenMode", "TokenBank", "attend", "global_loss"]

GlobalTokenMode = Literal["attention", "max", "mean"]


class GlobalToken(NamedTuple):
    """Global token of each image, and the weight of each position in it.

    Attributes:
        token_BD: (B, D) float32.
        weights_Bhw: (B, h, w) float32, with a sum of 1 in each image: the attention map, uniform weights for `mean`,
            or for `max` the fraction of channels with their maximum at each position.
    """

    token_BD: Tensor
    weights_Bhw: Tensor


@in_float32
def attend(
    cls_BD: Tensor,
    features_BDhw: Tensor,
    valid_Bhw: Tensor | None = None,
    mode: GlobalTokenMode = "attention",
    unit_query: bool = False,
) -> GlobalToken:
    """Pool the student's dense features into one global token per image.

    Source: section 3.2, eq. 1 and 2; `max` and `mean` are variants in Table 4.

    Args:
        cls_BD: (B, D) float, CLIP's CLS tokens, unnormalised; unused by `max` and `mean`.
        features_BDhw: (B, D, h, w) float, the student's dense features R, unnormalised.
        valid_Bhw: (B, h, w) bool, False for padding; None if there is no padding. An image without valid positions gets
            a zero token and zero weights.
        mode: parameter-free attention, or the per-channel maximum or average over positions.
        unit_query: normalise the CLS tokens first, which makes the attention almost uniform.

    Raises:
        ValueError: unknown mode.
    """
    size = features_BDhw.shape[-2:]
    features_BDL = features_BDhw.flatten(2)
    valid_BL = torch.ones_like(features_BDL[:, 0], dtype=torch.bool) if valid_Bhw is None else valid_Bhw.flatten(1)
    any_valid_B1 = valid_BL.any(1, keepdim=True)
    # A softmax over nothing is NaN, and a maximum is -inf. Both would spread to every gradient. Such images are pooled
    # over all positions, and set to zero at the end.
    masked_BL = ~valid_BL & any_valid_B1

    if mode == "attention":
        query_BD = F.normalize(cls_BD, dim=1) if unit_query else cls_BD
        scores_BL = torch.einsum("bd,bdl->bl", query_BD, features_BDL) / query_BD.shape[1] ** 0.5
        weights_BL = scores_BL.masked_fill(masked_BL, float("-inf")).softmax(1)
        token_BD = torch.einsum("bl,bdl->bd", weights_BL, features_BDL)
    elif mode == "max":
        token_BD, index_BD = features_BDL.masked_fill(masked_BL[:, None], float("-inf")).max(2)
        share_BD = torch.full_like(token_BD, 1 / token_BD.shape[1])
        weights_BL = torch.zeros_like(features_BDL[:, 0]).scatter_add(1, index_BD, share_BD)
    elif mode == "mean":
        counted_BL = (~masked_BL).float()
        weights_BL = counted_BL / counted_BL.sum(1, keepdim=True)
        token_BD = torch.einsum("bl,bdl->bd", weights_BL, features_BDL)
    else:
        raise ValueError(f"global token mode is {mode!r}: expected 'attention', 'max' or 'mean'")
    return GlobalToken(token_BD * any_valid_B1, (weights_BL * any_valid_B1).unflatten(1, size))


class TokenBank:
    """Unit-norm CLS tokens of the last iterations, first in, first out (section 3.2, memory bank).

    The capacity is a number of iterations by default. The authors' later text (CLIP-to-Seg Distillation) can be read as
    a number of tokens. In a training step, compute the loss first, then call `enqueue`, then the optimiser. With
    several processes, enqueue the gathered tokens, so that every process has the same bank.

    Args:
        iterations: number of calls of `enqueue` to keep; 0 keeps the bank empty.
        tokens_kept: number of tokens to keep instead, None for no limit other than the iterations.

    Attributes:
        tokens: (K, D) float32, oldest first; (0, 0) while empty.
        image_ids: (K,) int64.
    """

    def __init__(self, iterations: int = 24, tokens_kept: int | None = None) -> None:
        self.iterations, self.tokens_kept = iterations, tokens_kept
        self.tokens = torch.empty(0, 0)
        self.image_ids = torch.empty(0, dtype=torch.int64)
        self._batch_sizes: list[int] = []

    def __len__(self) -> int:
        return len(self.tokens)

    @torch.no_grad()
    def enqueue(self, cls_BD: Tensor, image_ids_B: Tensor) -> None:
        """Add the CLS tokens of one iteration and drop the oldest iteration if the bank is full.

        Args:
            cls_BD: (B, D) float, with any norm; the bank moves to its device.
            image_ids_B: (B,) integer, identifies the image of each token's view.
        """
        unit_BD = F.normalize(cls_BD.float(), dim=1)
        ids_B = image_ids_B.to(unit_BD.device, torch.int64)
        if len(self):
            unit_BD = torch.cat([self.tokens.to(unit_BD.device), unit_BD])
            ids_B = torch.cat([self.image_ids.to(ids_B.device), ids_B])
        self._keep_newest(unit_BD, ids_B, [*self._batch_sizes, len(cls_BD)])

    def state_dict(self) -> dict[str, Tensor]:
        """The contents as tensors only, so that `torch.load(weights_only=True)` can read them from a checkpoint."""
        sizes = torch.tensor(self._batch_sizes, dtype=torch.int64)
        return {"tokens": self.tokens, "image_ids": self.image_ids, "batch_sizes": sizes}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replace the contents with those of `state_dict`, limited to the capacity of this bank."""
        self._keep_newest(state["tokens"], state["image_ids"], state["batch_sizes"].tolist())

    def _keep_newest(self, tokens_KD: Tensor, image_ids_K: Tensor, batch_sizes: list[int]) -> None:
        if self.tokens_kept is not None:
            first = max(0, sum(batch_sizes) - self.tokens_kept)
            self.tokens, self.image_ids = tokens_KD[first:].clone(), image_ids_K[first:].clone()
            self._batch_sizes = [len(self.tokens)]
            return
        surplus = max(0, len(batch_sizes) - self.iterations)
        first = sum(batch_sizes[:surplus])
        # Clone, because the tensors may belong to the caller, and a view would keep dropped tokens in memory.
        self.tokens, self.image_ids = tokens_KD[first:].clone(), image_ids_K[first:].clone()
        self._batch_sizes = batch_sizes[surplus:]


@in_float32
def global_loss(
    cls_BD: Tensor,
    student_BD: Tensor,
    image_ids_B: Tensor,
    bank: TokenBank,
    temperature: float = 0.07,
    first: int = 0,
) -> Tensor:
    """Contrast each student token with its own CLS token against those of other images (L_global, eq. 3).

    This is InfoNCE on cosines, averaged over the student's rows. Eq. 3 is printed without the -log; minimising it would
    push each pair apart. Negatives are the other CLS tokens in the batch and the bank. Negatives of the same image are
    masked, such as older views in the bank or another view of the image in this batch.

    Args:
        cls_BD: (B, D) float, CLIP's CLS tokens. It can have more rows than the student: row `first` + i belongs to
            student row i, and the other rows, from images of other processes, are only negatives.
        student_BD: (B, D) float, the student's global tokens.
        image_ids_B: (B,) integer, one for each row of `cls_BD`.
        bank: tokens of earlier iterations. It is only read; call `enqueue` afterwards.
        temperature: divides the cosines.
        first: row of `cls_BD` that belongs to the student's first row.

    Returns:
        Scalar float32.
    """
    contrasted_ND = F.normalize(cls_BD, dim=1)
    ids_N = image_ids_B.to(cls_BD.device)
    if len(bank):
        contrasted_ND = torch.cat([contrasted_ND, bank.tokens.to(cls_BD.device)])
        ids_N = torch.cat([ids_N, bank.image_ids.to(cls_BD.device)])
    row_B = torch.arange(len(student_BD), device=cls_BD.device)
    positive_B = first + row_B

    logits_BN = F.normalize(student_BD, dim=1) @ contrasted_ND.T / temperature
    same_image_BN = ids_N[positive_B, None] == ids_N
    same_image_BN[row_B, positive_B] = False
    return F.cross_entropy(logits_BN.masked_fill(same_image_BN, float("-inf")), positive_B)
