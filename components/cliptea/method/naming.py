"""Names for regions in the transductive setting, where the names of unseen classes are known in training, but no masks.

The paper mentions this setting and does not run it. The rule follows the spirit of STRICT (arXiv 2104.11692, a student
that names what it did not learn, made stable by two views) with CLIP's embeddings of regions.

Shapes: B images, R regions of an image (padded), D channels, h w features, N names of all classes, S of them seen, U
unseen, M margins.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptea.method.losses import FeatureNorm, class_logits
from cliptea.method.precision import in_float32

__all__ = ["NOT_NAMED", "MarginMemory", "Named", "merged_regions", "name_regions", "region_scores"]

NOT_NAMED = -1


class Named(NamedTuple):
    """Proposed names.

    Attributes:
        unseen_BR: (B, R) int64, number of the unseen class, or -1 if there is none.
        margin_BR: (B, R) float32, lead of that class over the next one; 0 where there is none.
    """

    unseen_BR: Tensor
    margin_BR: Tensor


@torch.no_grad()
@in_float32
def region_scores(
    features_BDhw: Tensor,
    regions_Bhw: Tensor,
    text_ND: Tensor,
    num_regions: int,
    feature_norm: FeatureNorm = "none",
) -> Tensor:
    """A student's score of each name for each region: the mean over its positions of the softmax over all names.

    Args:
        features_BDhw: (B, D, h, w) float, raw features R.
        regions_Bhw: (B, h, w) uint8, region at each position, 255 for none.
        text_ND: (N, D) float, unit norm.
        num_regions: R.
        feature_norm: as in training, see `class_logits`.

    Returns:
        (B, R, N) float32; zero for regions without any position.
    """
    share_BLN = class_logits(features_BDhw, text_ND, feature_norm=feature_norm).flatten(2).softmax(1).mT
    numbers_R = torch.arange(num_regions, device=regions_Bhw.device)
    member_BRL = (regions_Bhw.flatten(1)[:, None] == numbers_R[:, None]).float()
    return member_BRL @ share_BLN / member_BRL.sum(2, keepdim=True).clamp(min=1)


@torch.no_grad()
@in_float32
def name_regions(
    starts_BRD: Tensor, present_BR: Tensor, scores_BRN: Tensor, flipped_BRN: Tensor, text_ND: Tensor, num_seen: int,
    temperature: float = 0.07,
) -> Named:  # fmt: skip
    """Propose an unseen class for each region on which CLIP and both views of the student agree.

    The score of a name is the mean of two shares: of CLIP's embedding of the region, softmax_n(<c, t_n> / temperature),
    and of the student. The best name must be the same for the image and for its mirror image, and must be unseen. All
    names take part, so that an unlabelled rim of a seen class is not named.

    Args:
        starts_BRD: (B, R, D) float, unit-norm embeddings of the regions, from `region_starts`.
        present_BR: (B, R) bool.
        scores_BRN: (B, R, N) float, the student's scores from `region_scores`.
        flipped_BRN: (B, R, N) float, the same for the mirror images.
        text_ND: (N, D) float, unit norm, the seen classes first.
        num_seen: S.
        temperature: divides the cosines. The default is that of eq. 3 (docs/method.md).

    Returns:
        The name and its margin for each region, and no name for regions that are not present.
    """
    clip_BRN = (starts_BRD @ text_ND.T / temperature).softmax(2)
    both = [(clip_BRN + student_BRN) / 2 for student_BRN in (scores_BRN, flipped_BRN)]
    (_, best_BR), (_, again_BR) = (scores.max(2) for scores in both)
    lead_BR2 = ((both[0] + both[1]) / 2).topk(2, dim=2).values
    agreed_BR = present_BR & (best_BR == again_BR) & (best_BR >= num_seen)
    return Named(
        torch.where(agreed_BR, best_BR - num_seen, NOT_NAMED),
        (lead_BR2[..., 0] - lead_BR2[..., 1]) * agreed_BR,
    )


class MarginMemory:
    """The last margins of each unseen class, from which the margin that a name needs is taken.

    Args:
        classes: U.
        size: margins that are kept for each class.

    Attributes:
        margins_UM: (U, M) float32, -1 where there is none yet.
    """

    def __init__(self, classes: int, size: int = 256) -> None:
        self.margins_UM = torch.full((classes, size), -1.0)

    @torch.no_grad()
    def accept(self, named: Named, quantile: float) -> Tensor:
        """Remember the margins, and keep the names whose margin reaches the quantile of their class.

        Args:
            named: the proposed names of the whole batch.
            quantile: 0 keeps all names, 1 only the surest.

        Returns:
            (B, R) int64, number of the unseen class, or -1.
        """
        unseen_BR, margin_BR = named
        self.margins_UM = self.margins_UM.to(margin_BR.device)
        accepted_BR = torch.full_like(unseen_BR, NOT_NAMED)
        for unseen in unseen_BR[unseen_BR != NOT_NAMED].unique().tolist():
            mine_BR = unseen_BR == unseen
            both_M = torch.cat([self.margins_UM[unseen], margin_BR[mine_BR]])[-self.margins_UM.shape[1] :]
            self.margins_UM[unseen] = both_M
            needed = both_M[both_M >= 0].quantile(quantile)
            accepted_BR[mine_BR & (margin_BR >= needed)] = unseen
        return accepted_BR

    def state_dict(self) -> dict[str, Tensor]:
        """The margins, for a checkpoint."""
        return {"margins": self.margins_UM}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replace the margins with those of `state_dict`."""
        self.margins_UM = state["margins"].clone()


@torch.no_grad()
def merged_regions(regions_Bgg: Tensor, unseen_BR: Tensor) -> Tensor:
    """Join the regions of an image that have the same name, under the number of the first of them.

    Args:
        regions_Bgg: (B, g, g) uint8, 255 for none.
        unseen_BR: (B, R) int64 from `MarginMemory.accept`.

    Returns:
        (B, g, g) uint8.
    """
    same_BRR = (unseen_BR[:, :, None] == unseen_BR[:, None]) & (unseen_BR != NOT_NAMED)[:, None]
    regions = unseen_BR.shape[1]
    same_BRR = same_BRR | torch.eye(regions, dtype=torch.bool, device=unseen_BR.device)
    first_BR = same_BRR.int().argmax(2)
    number_BX = F.pad(first_BR, (0, 256 - regions), value=255)
    return number_BX.gather(1, regions_Bgg.long().flatten(1)).view_as(regions_Bgg).to(torch.uint8)
