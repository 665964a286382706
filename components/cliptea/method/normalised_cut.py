"""Recursive normalised cut of an image's ignored tokens: an alternative to K-means and fusion.

The paper names look-alike classes, which K-means cannot tell apart, as a limit. A cut looks at all pairs of tokens, and
at how far apart they are. Source: Shi and Malik, "Normalized cuts and image segmentation" (2000), two-way cuts
repeated.

Shapes: L tokens of an image, D channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptea.method.precision import in_float32

__all__ = ["affinity", "normalised_cut"]


@torch.no_grad()
@in_float32
def affinity(tokens_LD: Tensor, places_L2: Tensor, sigma: float, radius: float) -> Tensor:
    """The weight of each pair of tokens: exp((cosine - 1) / sigma) * exp(-distance^2 / (2 radius^2)).

    Args:
        tokens_LD: (L, D) float, of any norm.
        places_L2: (L, 2) integer or float, row and column of each token.
        sigma: how fast the weight falls with the cosine.
        radius: how fast it falls with the distance, in tokens.

    Returns:
        (L, L) float32, symmetric, in [0, 1]; very small weights are 0.
    """
    unit_LD = F.normalize(tokens_LD, dim=1)
    places_L2 = places_L2.float()
    squared_LL = (places_L2[:, None] - places_L2).square().sum(2)
    weight_LL = ((unit_LD @ unit_LD.T - 1) / sigma - squared_LL / (2 * radius**2)).exp()
    return (weight_LL + weight_LL.T) / 2


@torch.no_grad()
@in_float32
def normalised_cut(weight_LL: Tensor, threshold: float) -> Tensor:
    """Split tokens in two again and again, as long as the best cut of a part costs less than `threshold`.

    The two sides of a part are A and B, and Ncut(A, B) = cut(A, B) / assoc(A) + cut(A, B) / assoc(B), where assoc sums
    the weights of a side's tokens to all tokens of the part. Tokens are ordered by the second eigenvector of the
    normalised Laplacian, and of all places to cut this order, the cheapest is taken.

    Args:
        weight_LL: (L, L) float, symmetric, not negative, from `affinity`.
        threshold: theta, the cost from which a part stays whole; no cut costs more than 2, and equal halves cost 1 if
            all weights are equal.

    Returns:
        (L,) int64 part of each token, numbered by the first token of each part.
    """
    part_L = torch.zeros(len(weight_LL), dtype=torch.int64, device=weight_LL.device)
    open_parts, closed = [torch.arange(len(weight_LL), device=weight_LL.device)], 0
    while open_parts:
        members = open_parts.pop()
        sides = _cut(weight_LL[members[:, None], members], threshold)
        if sides is None:
            part_L[members] = closed
            closed += 1
        else:
            open_parts += [members[sides], members[~sides]]
    # number the parts by their first token, whatever the order in which they were closed
    first_K = torch.full((closed,), len(part_L), device=part_L.device)
    first_K.scatter_reduce_(0, part_L, torch.arange(len(part_L), device=part_L.device), "amin")
    return first_K.argsort().argsort()[part_L]


def _cut(weight_LL: Tensor, threshold: float) -> Tensor | None:
    """(L,) bool, one side of the cheapest cut, or None if it costs `threshold` or more."""
    if len(weight_LL) < 2:
        return None
    degree_L = weight_LL.sum(1)
    scale_L = degree_L.rsqrt()
    _, vectors_LL = torch.linalg.eigh(weight_LL * scale_L[:, None] * scale_L)
    order_L = (vectors_LL[:, -2] * scale_L).argsort(stable=True)
    sorted_LL, sorted_L = weight_LL[order_L][:, order_L].double(), degree_L[order_L].double()
    inside_L = sorted_LL.cumsum(0).cumsum(1).diagonal()  # of the first k tokens among themselves
    assoc_L, total = sorted_L.cumsum(0), sorted_L.sum()
    crossing_L = assoc_L - inside_L
    cost_L = (crossing_L / assoc_L + crossing_L / (total - assoc_L))[:-1]
    best = cost_L.argmin()
    if cost_L[best] >= threshold:
        return None
    side_L = torch.zeros(len(weight_LL), dtype=torch.bool, device=weight_LL.device)
    side_L[order_L[: best + 1]] = True
    return side_L
